"""What shows only after the choice costs a checkpoint its place, and an older one takes it."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from debris import debris

from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.provenance import Provenance

LARGE = 1.7e308  # two of them exceed float64


def save(directory: Path, step: int, **state: Any) -> None:
    torch.save(state, directory / f"step_{step}.pt")


def save_tied(directory: Path, *steps: int) -> None:
    for step in steps:
        tensor = torch.full((3,), float(step))
        save(directory, step, a=tensor, b=tensor)


def save_untied(directory: Path, *steps: int) -> None:
    for step in steps:
        save(directory, step, a=torch.full((3,), float(step)), b=torch.full((3,), float(step)))


def run(directory: Path, **options: Any) -> Provenance:
    provenance = run_average(AverageRequest(directory=directory, **options))
    assert isinstance(provenance, Provenance)
    assert debris(directory) == []
    return provenance


def steps_of(provenance: Provenance) -> list[int | None]:
    return [source.step for source in provenance.sources]


def averaged(directory: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(directory / "averaged_model.pt", weights_only=True)
    return state


def test_one_that_is_not_tied_like_the_newest_makes_room_for_an_older_one(tmp_path: Path) -> None:
    save_tied(tmp_path, 1, 2, 4)
    save_untied(tmp_path, 3)

    provenance = run(tmp_path, count=3)

    assert steps_of(provenance) == [1, 2, 4]
    (skipped,) = provenance.skipped
    assert skipped.name == "step_3.pt"
    assert skipped.reason == "'a' and 'b' do not share memory as they do in step_4.pt"
    found = averaged(tmp_path)
    assert found["a"].tolist() == pytest.approx([7 / 3] * 3)
    assert found["a"].data_ptr() == found["b"].data_ptr()


def test_where_only_the_newest_is_tied_each_other_one_is_named(tmp_path: Path) -> None:
    save_untied(tmp_path, 1, 2)
    save_tied(tmp_path, 3)

    with pytest.raises(TooFewCheckpoints) as refused:
        run_average(AverageRequest(directory=tmp_path))

    assert [entry.name for entry in refused.value.skipped] == ["step_1.pt", "step_2.pt"]
    assert all("do not share memory" in entry.reason for entry in refused.value.skipped)


def test_a_newest_that_cannot_be_written_again_loses_its_place(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, model={"w": torch.full((2,), float(step))}, extra=None)
    nest(tmp_path / "step_3.pt")

    provenance = run(tmp_path)

    assert steps_of(provenance) == [1, 2]
    (skipped,) = provenance.skipped
    assert skipped.name == "step_3.pt"
    assert skipped.reason.startswith("its pickle is nested deeper than")


def nest(path: Path) -> None:
    """Put lists in lists in place of None; no pickler writes so many."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(name for name in records if name.endswith("/data.pkl"))
    at = records[root].rindex(b"N")
    records[root] = records[root][:at] + b"]" * 20_000 + b"a" * 19_999 + records[root][at + 1 :]
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in records.items():
            archive.writestr(name, body)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_newest_of_float8_loses_its_place_where_others_are_too(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    save(tmp_path, 3, w=torch.ones(2).to(dtype))
    save(tmp_path, 1, w=torch.ones(2))
    save(tmp_path, 2, w=torch.full((2,), 3.0))

    provenance = run(tmp_path)

    assert steps_of(provenance) == [1, 2]
    assert averaged(tmp_path)["w"].tolist() == [2.0, 2.0]
    reasons = {entry.name: entry.reason for entry in provenance.skipped}
    assert "cannot be averaged" in reasons["step_3.pt"]


@pytest.mark.parametrize("method", ["uniform", "ema", "wsm-1-sqrt"])
def test_sums_beyond_float64_whose_mean_is_not_are_averaged(tmp_path: Path, method: str) -> None:
    values = np.array([[LARGE, 1.0, -LARGE, 5e-324], [LARGE, 2.0, -LARGE, 1.5e-323]] * 2)
    values += np.arange(4)[:, None] * np.array([0, 1, 0, 5e-324])
    for step, row in enumerate(values):
        save(tmp_path, step, w=torch.from_numpy(row), n=torch.tensor(step))

    provenance = run(tmp_path, method=method)

    weights = [source.weight for source in provenance.sources]
    found = averaged(tmp_path)["w"].numpy()
    plain = values[:, [1, 3]]
    if method == "uniform":
        expected = plain.sum(0) / 4
    else:
        expected = sum(weight * row for weight, row in zip(weights, plain, strict=True))
    assert found[[1, 3]].tolist() == np.asarray(expected).tolist()
    assert found[[0, 2]] / LARGE == pytest.approx([1, -1], rel=1e-15)


def test_infinity_beside_the_largest_numbers_is_named(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        value = float("inf") if step == 3 else LARGE
        save(tmp_path, step, w=torch.tensor([value], dtype=torch.float64), n=torch.tensor(step))

    provenance = run(tmp_path)

    assert steps_of(provenance) == [1, 2, 4]
    assert [(entry.name, entry.reason) for entry in provenance.skipped] == [
        ("step_3.pt", "NaN or infinity in tensor 'w'")
    ]
