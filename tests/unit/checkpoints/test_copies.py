"""Of copies of one checkpoint the one whose step is known is averaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tracksided.checkpoints import content, copies
from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.job import AverageRequest, Unchanged, run_average
from tracksided.checkpoints.provenance import Provenance

Save = Callable[..., list[dict[str, torch.Tensor]]]
Copy = Callable[[Path, Path], object]


def average(directory: Path, *, count: int = 5, method: str = "uniform") -> Provenance:
    provenance = run_average(AverageRequest(directory=directory, count=count, method=method))
    assert not isinstance(provenance, Unchanged)
    return provenance


def save_again(source: Path, copy: Path) -> None:
    """Save the same once more: another name inside, no equal bytes."""
    torch.save(torch.load(source, weights_only=True), copy)


@pytest.mark.parametrize("copy", [shutil.copyfile, os.link, save_again])
def test_a_later_copy_without_a_step_costs_the_step_of_nothing(
    tmp_path: Path, save_steps: Save, copy: Copy
) -> None:
    save_steps(100, 200, 1000)
    copy(tmp_path / "step_1000.pt", tmp_path / "last.pt")

    provenance = average(tmp_path, method="ema")

    assert [source.name for source in provenance.sources] == [
        "step_100.pt",
        "step_200.pt",
        "step_1000.pt",
    ]
    assert provenance.step == 1000
    assert [entry.name for entry in provenance.skipped] == ["last.pt"]
    assert provenance.skipped[0].reason.endswith(" step_1000.pt")
    # docs/averaging.md: g_j decay^a_j, with gaps 100, 100, 800 and their mean 450 between them.
    terms = [100 * 0.9 ** (900 / 450), 100 * 0.9 ** (800 / 450), 800 * 1.0]
    assert [source.weight for source in provenance.sources] == pytest.approx(
        [term / sum(terms) for term in terms]
    )


def test_a_copy_is_recognised_where_it_would_be_the_last_one_taken(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2)
    shutil.copyfile(tmp_path / "step_2.pt", tmp_path / "best.pt")
    save_steps(3, 4)

    provenance = average(tmp_path, count=3)

    assert [source.step for source in provenance.sources] == [2, 3, 4]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_that_has_not_settled_hides_nothing_of_what_it_leads_to(
    tmp_path: Path, save_steps: Save, link: Copy
) -> None:
    save_steps(1, 2, 3)
    link(tmp_path / "step_3.pt", tmp_path / "best.pt")

    made = run_average(AverageRequest(directory=tmp_path, unsettled=frozenset({"best.pt"})))

    assert isinstance(made, Provenance)
    assert [source.name for source in made.sources] == ["step_1.pt", "step_2.pt", "step_3.pt"]
    assert made.skipped == ()


def test_a_stated_step_counts_more_than_a_number_in_a_name(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3)
    shutil.copyfile(tmp_path / "step_3.pt", tmp_path / "model_2026.pt")

    provenance = average(tmp_path)

    assert [source.step for source in provenance.sources] == [1, 2, 3]
    assert provenance.step == 3


def save_unverified(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize("which", ["step_3.pt", "last.pt"])
def test_a_copy_is_recognised_where_only_one_of_both_has_checksums(
    tmp_path: Path, save_steps: Save, which: str
) -> None:
    newest = save_steps(1, 2, 3)[-1]
    shutil.copyfile(tmp_path / "step_3.pt", tmp_path / "last.pt")
    save_unverified(tmp_path / which, newest)

    provenance = average(tmp_path)

    assert [source.step for source in provenance.sources] == [1, 2, 3]
    assert [entry.reason for entry in provenance.skipped] == ["is a copy of step_3.pt"]


def test_a_copy_without_a_step_gives_way_where_nothing_has_checksums(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_unverified(tmp_path / f"step_{step}.pt", {"w": torch.full((4,), float(step))})
    save_unverified(tmp_path / "last.pt", {"w": torch.full((4,), 3.0)})

    provenance = average(tmp_path)

    assert [source.step for source in provenance.sources] == [1, 2, 3]
    assert [entry.reason for entry in provenance.skipped] == ["is a copy of step_3.pt"]


def test_checkpoints_that_differ_in_one_of_many_tensors_are_no_copies(tmp_path: Path) -> None:
    frozen = {f"layer_{number}": torch.full((4,), 7.0) for number in range(30)}
    for step in (1, 2, 3):
        head = {"layer_13": torch.full((4,), float(step))}
        save_unverified(tmp_path / f"step_{step}.pt", frozen | head)

    provenance = average(tmp_path)

    assert [source.step for source in provenance.sources] == [1, 2, 3]


@pytest.mark.parametrize("has_checksums", [True, False])
def test_many_checkpoints_are_not_compared_pair_by_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_checksums: bool
) -> None:
    number = 12  # 66 pairs
    for step in range(number):
        state = {"w": torch.full((4,), float(step))}
        path = tmp_path / f"step_{step}.pt"
        torch.save(state, path) if has_checksums else save_unverified(path, state)
    asked: list[str] = []

    def digest(checkpoint: Checkpoint) -> str | None:
        asked.append(checkpoint.name)
        return content.stated_digest(checkpoint)

    def compare(one: Checkpoint, other: Checkpoint) -> bool:
        asked.append(f"{one.name} and {other.name}")
        return content.is_same_content(one, other)

    monkeypatch.setattr(copies, "stated_digest", digest)
    monkeypatch.setattr(copies, "is_same_content", compare)

    provenance = average(tmp_path, count=number)

    assert len(provenance.sources) == number
    assert number <= len(asked) <= 2 * number  # looked for, and added
    assert not [names for names in asked if " and " in names]
