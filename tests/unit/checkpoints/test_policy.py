from pathlib import Path

import pytest

from tracksided.checkpoints.naming import (
    name_to_be,
    number_in_name,
    step_in_name,
    temporary_name,
)
from tracksided.checkpoints.policy import Candidate, StepRange, newest_first, step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_1000.pt", 1000),
        ("step1000.pt", 1000),
        ("model-step=400-v1.ckpt", 400),
        ("epoch=3-step=400.ckpt", 400),
        ("global_step_77.pth", 77),
        ("GlobalStep88.pt", 88),
        ("iter_0005000.pt", 5000),
        ("checkpoint_500.pt", None),
        ("footstep.pt", None),
        ("last.pt", None),
    ],
)
def test_a_step_is_read_where_the_name_calls_it_one(name: str, step: int | None) -> None:
    assert step_in_name(name) == step


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("checkpoint_500.pt", 500),
        ("checkpoint_1_500.pt", 500),
        ("epoch=3-val_loss=0.25.ckpt", 3),
        ("model_0.25.pt", None),
        ("best.pt", None),
        ("v" + "9" * 40 + ".pt", None),
    ],
)
def test_other_whole_numbers_order_what_has_no_step(name: str, number: int | None) -> None:
    assert number_in_name(name) == number


def names(*candidates: Candidate) -> list[str]:
    return [candidate.path.name for candidate in newest_first(candidates)]


def at(name: str, mtime_ns: int, step: int | None = None) -> Candidate:
    return Candidate(Path(name), mtime_ns, step)


def test_numbers_are_compared_as_numbers_and_before_times() -> None:
    assert names(at("step_200.pt", 9), at("step_1000.pt", 1), at("step_90.pt", 5)) == [
        "step_1000.pt",
        "step_200.pt",
        "step_90.pt",
    ]


def test_the_content_says_the_step_where_the_name_does_not_call_it_one() -> None:
    assert step_of(at("checkpoint_3.pt", 0, 750)) == 750
    assert step_of(at("step_3.pt", 0, 750)) == 3


def test_a_file_without_step_ranks_with_what_was_written_before_it() -> None:
    assert names(at("step_1.pt", 1), at("last.pt", 3), at("step_2.pt", 2), at("step_3.pt", 4)) == [
        "step_3.pt",
        "last.pt",
        "step_2.pt",
        "step_1.pt",
    ]


def test_files_without_any_step_are_ordered_by_time() -> None:
    assert names(at("a.pt", 2), at("b.pt", 3), at("c.pt", 1)) == ["b.pt", "a.pt", "c.pt"]


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
