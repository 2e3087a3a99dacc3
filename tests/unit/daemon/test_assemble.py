"""Documents and scalars of a step."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from fake_trainer import make_hello, make_step

from trackside.wire.records import LoggedScalar, LoggedText
from tracksided.assemble import (
    NO_ANALYSIS,
    RankStep,
    assemble,
    folder_name,
    layer_norms,
    logged_texts,
)
from tracksided.reports import Scalar

HELLO = make_hello(Path("/out"), world_size=2, local_world_size=2)


def test_statistics_hold_what_the_contract_names() -> None:
    step = make_step(20, epoch=3)
    other = make_step(20, loss=7.0, local_gradient_norm=3.5, dropped={"ring_full": 2})
    ranks = [
        RankStep(HELLO, step, weight_norm=4.0, weight_checksum="c0ffee00"),
        RankStep(replace(HELLO, rank=1), other, weight_norm=5.0, weight_checksum="c0ffee00"),
    ]

    statistics = assemble(ranks, NO_ANALYSIS).statistics

    assert statistics["metadata"] == {
        "step": 20,
        "epoch": 3,
        "loss": 0.5,
        "lr": 0.001,
        "timestamp": 1_700_000_020.0,
        "run": "fake-run",
        "rank": 0,
        "world_size": 2,
        "schema": 1,
        "nonfinite": [],
    }
    same = {"step_seconds": 0.1, "local_seconds": 0.05, "weight_checksum": "c0ffee00"}
    assert statistics["ranks"] == [
        {**same, "rank": 0, "loss": 0.5, "local_grad_norm": 2.5, "weight_norm": 4.0, "dropped": 0},
        {**same, "rank": 1, "loss": 7.0, "local_grad_norm": 3.5, "weight_norm": 5.0, "dropped": 2},
    ]
    assert statistics["encoder"] == []


def test_without_an_analysis_the_norms_of_the_record_stay() -> None:
    statistics = assemble([RankStep(HELLO, make_step(1))], None).statistics

    assert statistics["gradients"] == {
        "norm_before_clip": 2.0,
        "norm_after_clip": 1.0,
        "clipped": True,
        "max_norm": 1.0,
        "clip_rate": 0.5,
        "nonfinite": False,
        "cosine_to_previous": None,
        "parameters": [],
    }


def test_what_is_not_finite_is_named() -> None:
    step = make_step(1, loss=math.nan, norm_before_clip=math.inf)

    report = assemble([RankStep(HELLO, step)], None)

    assert report.statistics["metadata"]["nonfinite"] == ["loss"]
    assert report.statistics["gradients"]["nonfinite"] is True
    assert report.history["nonfinite"] == ["loss", "norm_before_clip", "ranks.0.loss"]


def test_scalars_have_the_tags_of_the_contract() -> None:
    step = make_step(
        20,
        epoch=3,
        scalars=(
            LoggedScalar(step=19, name="accuracy", value=0.25),
            LoggedScalar(step=20, name="Eval/Loss", value=4.0),
        ),
    )

    scalars = assemble([RankStep(HELLO, step)], None).scalars

    assert set(scalars) == {
        Scalar("Training/Loss", 0.5, 20),
        Scalar("Training/Learning_Rate", 0.001, 20),
        Scalar("Training/GradNorm", 2.0, 20),
        Scalar("Training/Gradient_Norm", 1.0, 20),
        Scalar("Training/Clip_Rate", 0.5, 20),
        Scalar("Training/Epoch", 3.0, 20),
        Scalar("Training/Step_Seconds", 0.1, 20),
        Scalar("Custom/accuracy", 0.25, 19),
        Scalar("Eval/Loss", 4.0, 20),
    }


def test_unknown_values_give_no_scalar() -> None:
    step = make_step(20, loss=None, learning_rate=None, scalars=())

    tags = {scalar.tag for scalar in assemble([RankStep(HELLO, step)], None).scalars}

    assert "Training/Loss" not in tags
    assert "Training/Learning_Rate" not in tags
    assert "Training/Epoch" not in tags


@pytest.mark.parametrize(
    ("epoch", "requested", "expected"),
    [(None, False, "step_500"), (1, False, "step_500"), (1, True, "epoch_1_step_500")],
)
def test_folder_is_named_after_step_and_asked_for_epoch(
    epoch: int | None, *, requested: bool, expected: str
) -> None:
    assert folder_name(make_step(500, epoch=epoch, epoch_requested=requested)) == expected


def test_failures_and_shedding_are_written_to_history() -> None:
    report = assemble(
        [RankStep(HELLO, make_step(1))], None, shed="pictures", failures={"worker": "killed"}
    )

    assert report.history["failures"] == {"worker": "killed"}
    assert report.history["shed"] == "pictures"


def test_texts_without_a_group_are_custom() -> None:
    texts = (
        LoggedText(step=1, tag="note", text="a"),
        LoggedText(step=1, tag="Training/Epoch_Summary", text="b"),
    )

    assert [text.tag for text in logged_texts(texts)] == ["Custom/note", "Training/Epoch_Summary"]


def test_layers_end_with_the_first_number_of_a_name() -> None:
    parameters = [
        {"name": "h.0.attn.weight", "norm": 3.0},
        {"name": "h.0.mlp.2.bias", "norm": 4.0},
        {"name": "embed.weight", "norm": 2.0},
        {"name": "scale", "norm": 1.0},
        {"name": "h.1.weight", "norm": None},
    ]

    assert layer_norms(parameters) == {"h.0": 5.0, "embed": 2.0, "scale": 1.0}
