"""Of copies of one checkpoint the one whose step is known is averaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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
