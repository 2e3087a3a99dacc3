"""What is said of an epoch and of a run at its end."""

from dataclasses import replace
from typing import Any

import pytest

from tracksided.convergence.course import Best, Course, Epoch, Evaluation, Tally
from tracksided.convergence.verdict import Verdict
from tracksided.summaries import Finale, epoch_scalars, epoch_text, final_scalars, final_texts

EPOCH = Epoch(
    epoch=3,
    first_step=100,
    last_step=190,
    started_at=1000.0,
    ended_at=1012.5,
    num_samples=10,
    loss=Tally(count=10, mean=2.0, minimum=1.5, last=1.75),
    gradient_norm=Tally(count=10, mean=0.5, minimum=0.25, last=0.75),
    learning_rate=Tally(count=10, mean=0.01, minimum=0.001, last=0.001),
    clip_rate=Tally(),
)
TOTALS: dict[str, Any] = {
    "run": "r",
    "state": "finished",
    "steps": 200,
    "processed": 20,
    "dropped": {"full": 2, "shape": 1},
    "final": {"step": 190, "loss": 1.7},
}
FINALE = Finale(totals=TOTALS, close=None, course=Course(), verdict=Verdict())


def test_an_epoch_has_its_numbers_and_no_unknown_ones() -> None:
    found = epoch_scalars(EPOCH)

    assert {scalar.tag: scalar.value for scalar in found} == {
        "Epoch/Loss": 2.0,
        "Epoch/Loss_Min": 1.5,
        "Epoch/Gradient_Norm": 0.5,
        "Epoch/Learning_Rate": 0.001,
        "Epoch/Seconds": 12.5,
        "Epoch/Sampled_Steps": 10.0,
    }
    assert {scalar.step for scalar in found} == {190}


def test_an_epoch_is_told_with_the_change_since_the_one_before() -> None:
    before = replace(EPOCH, epoch=2, loss=Tally(count=10, mean=2.5, minimum=2.0, last=2.0))

    text = epoch_text(EPOCH, before)

    assert (text.tag, text.step) == ("Training/Epoch_Summary", 190)
    assert "| Epoch | 3 |" in text.text
    assert "| Sampled steps | 10, 100 to 190 |" in text.text
    assert "| Against the epoch before | -20.0% |" in text.text
    assert "| Lowest, last loss | 1.5, 1.75 |" in text.text
    assert "| Mean clip rate | unknown |" in text.text
    assert "| Seconds | 12.5 |" in text.text


@pytest.mark.parametrize(
    ("seen", "written", "step"),
    [(200, 190, 200), (200, 10_190, 10_190), (None, 190, 190)],
    ids=["from the start", "resumed", "killed"],
)
def test_the_end_of_a_run_stands_at_its_last_step(
    seen: int | None, written: int, step: int
) -> None:
    finale = replace(FINALE, totals={**TOTALS, "steps": seen, "final": {"step": written}})

    assert finale.step == step


def test_a_run_that_said_little_has_little_to_tell() -> None:
    assert {scalar.tag: scalar.value for scalar in final_scalars(FINALE)} == {
        "Final/Loss": 1.7,
        "Final/Steps": 200.0,
        "Final/Sampled_Steps": 20.0,
        "Final/Dropped": 3.0,
    }
    (summary,) = final_texts(FINALE)
    assert summary.tag == "Training/Final_Summary"
    assert "| Lowest sampled loss | unknown |" in summary.text
    assert not [line for line in summary.text.splitlines() if line.startswith("-")]


def test_a_run_ends_with_its_last_epoch_its_best_and_advice() -> None:
    course = Course(
        best=Best(step=150, value=1.25),
        evaluation=Evaluation(
            name="eval_loss", last=2.0, best=Best(step=120, value=1.5), num_since=4
        ),
        epoch=EPOCH,
    )
    verdict = Verdict(
        convergence_score=0.75,
        loss_trend=-0.125,
        loss_direction="falling",
        gradient_health="healthy",
        advice=("Do this.", "Do that."),
    )
    finale = replace(FINALE, course=course, verdict=verdict)

    scalars = {scalar.tag: (scalar.value, scalar.step) for scalar in final_scalars(finale)}
    epoch, summary = final_texts(finale)

    assert scalars["Epoch/Loss"] == (2.0, 190)
    assert scalars["Final/Best_Loss"] == (1.25, 200)
    assert scalars["Final/Convergence_Score"] == (0.75, 200)
    assert epoch == epoch_text(EPOCH, None)
    assert "| Lowest sampled loss | 1.25 at step 150 |" in summary.text
    assert "| Lowest held-out loss | 1.5 at step 120 (eval_loss) |" in summary.text
    assert "| Loss over the newest samples | -12.5%, falling |" in summary.text
    assert summary.text.endswith("\n\n- Do this.\n- Do that.")


@pytest.mark.parametrize(("steps", "expected"), [(200, 200), (None, 190)])
def test_a_run_that_was_killed_ends_at_its_last_sampled_step(
    steps: int | None, expected: int
) -> None:
    finale = replace(FINALE, totals={**TOTALS, "steps": steps})

    assert finale.step == expected
