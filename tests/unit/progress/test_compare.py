"""Curves side by side."""

from pathlib import Path

import pytest

from tracksided.errors import ReportError
from tracksided.progress.compare import Comparison, compare, comparison_document
from tracksided.progress.curve import Kind, Series, TrainingCurve
from tracksided.progress.summary import Summary, summarise


def make(name: str, losses: list[float], **settings: object) -> Summary:
    return summarise(
        TrainingCurve(
            name=name,
            source=Path(name) / "trainer_state.json",
            kind=Kind.TRAINER_STATE,
            loss=Series.of(range(10, 10 * len(losses) + 10, 10), losses),
            step=10 * len(losses),
            settings=settings,  # type: ignore[arg-type] # plain values
        )
    )


def cells(comparison: Comparison, section: str, label: str) -> tuple[str, ...]:
    return next(r.cells for r in comparison.rows if (r.section, r.label) == (section, label))


def test_finals_stand_side_by_side() -> None:
    found = compare([make("a", [3.0, 1.0]), make("b", [4.0])])

    assert found.names == ("a", "b")
    assert cells(found, "Loss", "current") == ("1", "4")
    assert cells(found, "Loss", "mean") == ("2", "4")
    assert cells(found, "Loss", "at step") == ("20", "10")
    assert cells(found, "Progress", "step") == ("20", "10")
    assert cells(found, "Speed", "steps per second") == ("unknown", "unknown")


def test_only_settings_that_differ_are_shown() -> None:
    runs = [
        make("a", [1.0], lr=1e-3, seed=1, output_dir="/a", only=True),
        make("b", [1.0], lr=1e-3, seed=2, output_dir="/b"),
        make("c", [1.0], lr=1e-3),
    ]

    found = compare(runs)

    shown = [row.label for row in found.rows if row.section == "Settings"]
    assert shown == ["seed"]
    assert cells(found, "Settings", "seed") == ("1", "2", "unknown")
    assert (found.num_same, found.num_lonely) == (1, 1)
    document = comparison_document(found, runs)
    assert document["different_settings"] == {"seed": {"a": 1, "b": 2, "c": None}}


def test_runs_of_one_name_are_told_apart_by_their_paths() -> None:
    same = make("run", [1.0])
    other = summarise(
        TrainingCurve(
            name="run", source=Path("elsewhere/run"), kind=Kind.EVENTS, loss=same.curve.loss
        )
    )

    assert compare([same, other]).names == ("run/trainer_state.json", "elsewhere/run")


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_cannot_be_compared(count: int) -> None:
    with pytest.raises(ReportError, match=f"{count} to compare, expected two or more"):
        compare([make("a", [1.0])] * count)
