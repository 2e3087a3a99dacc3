from dataclasses import replace
from pathlib import Path
from typing import Any

from tracksided.checkpoints.formats.base import Checkpoint, TensorEntry
from tracksided.checkpoints.naming import name_to_be, temporary_name
from tracksided.checkpoints.policy import (
    Candidate,
    StepRange,
    mismatch,
    newest_first,
    with_steps,
)
from tracksided.checkpoints.source import SourceFile

DTYPES = ("bfloat16", "float16")


def test_a_range_keeps_what_lies_inside_and_nothing_without_step() -> None:
    steps = StepRange(first=100, last=300, every=100)

    kept = [step for step in (None, 0, 100, 150, 200, 300, 400) if steps.holds(step)]

    assert kept == [100, 200, 300]
    assert StepRange().holds(None)


def test_temporary_names_are_hidden_known_and_never_twice_the_same() -> None:
    one, other = temporary_name("a.pt"), temporary_name("a.pt")

    assert one != other
    assert one.startswith(".")
    assert name_to_be(one) == "a.pt"
    assert not one.endswith((".pt", ".safetensors"))


def candidate(name: str, mtime_ns: int, **known: Any) -> Candidate:
    return Candidate(Path(name), mtime_ns, **known)


def test_a_file_without_a_step_ranks_behind_the_furthest_that_was_written_before_it() -> None:
    candidates = [
        candidate("step_300.pt", 1, step=300, is_numbered=True),
        candidate("step_100.pt", 2, step=100, is_numbered=True),  # copied back later
        candidate("last.pt", 3),
        candidate("step_200.pt", 4, step=200, is_numbered=True),
    ]

    ordered = [entry.path.name for entry in newest_first(candidates)]

    assert ordered == ["last.pt", "step_300.pt", "step_200.pt", "step_100.pt"]


def test_soups_of_one_step_are_counted_by_their_names() -> None:
    soups = [
        candidate(f"soup_{number}.pt", number, content_step=500, is_numbered=True, name_step=number)
        for number in (1, 2, 3)
    ]
    steps = [replace(soup, content_step=100 * (4 - soup.mtime_ns)) for soup in soups]

    assert [entry.step for entry in with_steps(soups)] == [1, 2, 3]
    assert [entry.step for entry in with_steps(steps)] == [300, 200, 100]


def test_other_dtypes_of_the_same_size_do_not_fit_together(tmp_path: Path) -> None:
    (tmp_path / "newest.pt").touch()
    source = SourceFile(tmp_path / "newest.pt")
    bfloat16, float16 = (
        Checkpoint((source,), "torch", {"weight": entry}, {}, 1, None)
        for entry in (TensorEntry(dtype, (2,), (1,), "0", 0, 4) for dtype in DTYPES)
    )

    reason = mismatch(bfloat16, float16)

    assert reason == "dtype of 'weight' is float16, bfloat16 in newest.pt"
    assert mismatch(float16, float16) is None
    source.close()
