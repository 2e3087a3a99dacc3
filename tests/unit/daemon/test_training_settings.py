"""What is known of a run's settings."""

from dataclasses import replace
from typing import Any

import pytest
from observed import make_report
from shown_cell import LIKE_MARKUP, shown_cell

from tracksided.reports import StepReport
from tracksided.training_settings import (
    MAX_ROWS,
    add_training_settings,
    flatten,
    training_settings_text,
)


def report_of(config: dict[str, Any], micro_batches: int | None = None) -> StepReport:
    report = make_report(100, micro_batches=micro_batches)
    return replace(report, hello=replace(report.hello, config=config))


def config_tags(report: StepReport) -> dict[str, float]:
    found = add_training_settings(report).scalars
    return {scalar.tag: scalar.value for scalar in found if scalar.tag.startswith("Config/")}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        (
            {"batch_size": 32, "seq_len": 512, "gradient_accumulation_steps": 4},
            {"Batch_Size": 32, "Sequence_Length": 512, "Gradient_Accumulation_Steps": 4},
        ),
        (  # transformers.TrainingArguments
            {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 64},
            {"Batch_Size": 8},
        ),
        (  # Lightning
            {"trainer": {"accumulate_grad_batches": 2}, "data": {"batch_size": 16}},
            {"Batch_Size": 16, "Gradient_Accumulation_Steps": 2},
        ),
        ({"model": {"batch_size": 1}, "batch_size": 7}, {"Batch_Size": 7}),
        ({"Batch_Size": 3, "BLOCK_SIZE": 128}, {"Batch_Size": 3, "Sequence_Length": 128}),
        ({"batch_size": "auto", "train_batch_size": 5}, {"Batch_Size": 5}),
        ({"batch_size": True, "seq_len": -1, "max_length": 0}, {}),
    ],
)
def test_usual_names_are_found(config: dict[str, Any], expected: dict[str, float]) -> None:
    assert config_tags(report_of(config)) == {
        f"Config/{name}": value for name, value in expected.items()
    }


def test_what_was_seen_stands_in_for_what_was_not_told() -> None:
    report = report_of({}, micro_batches=4)
    layers = [
        {"type": "cross_attention", "shape": [2, 5, 99]},
        {"type": "self_attention", "shape": [2, 5, 128]},
    ]
    statistics = {**report.statistics, "decoder": layers}

    assert config_tags(replace(report, statistics=statistics)) == {
        "Config/Sequence_Length": 128.0,
        "Config/Gradient_Accumulation_Steps": 4.0,
    }
    told = report_of({"gradient_accumulation_steps": 8, "seq_len": 64}, micro_batches=4)
    assert config_tags(replace(told, statistics=statistics)) == {
        "Config/Sequence_Length": 64.0,
        "Config/Gradient_Accumulation_Steps": 8.0,
    }


def test_settings_are_a_table() -> None:
    report = report_of({"lr": 0.1, "model": {"name": "a|b\nc"}, "betas": [0.9, 0.95]})

    (text,) = [
        text for text in add_training_settings(report).texts if text.tag.startswith("Config/")
    ]

    assert (text.tag, text.step) == ("Config/Training_Settings", 100)
    assert "| lr | 0.1 |" in text.text
    assert "| model.name | a\\|b c |" in text.text
    assert "| betas | [0.9, 0.95] |" in text.text
    assert "| version of torch | 0 |" in text.text
    assert "| sampled | every 10 steps |" in text.text


@pytest.mark.parametrize("value", LIKE_MARKUP)
def test_a_setting_is_shown_as_it_is(value: str) -> None:
    text = training_settings_text(report_of({"modules": value}).hello, 1).text

    assert shown_cell(text, "modules") == value


def test_endless_settings_are_cut_and_said_so() -> None:
    hello = report_of({f"k{i}": "x" * 1000 for i in range(MAX_ROWS + 5)}).hello

    text = training_settings_text(hello, 1).text

    assert "| | and 5 more: see run.json |" in text
    assert max(map(len, text.splitlines())) < 300


def test_nested_settings_get_dotted_names() -> None:
    settings = {"a": 1, "b": {"c": {"d": 2}, "e": {}}, "f": [{"g": 3}]}

    assert dict(flatten(settings)) == {"a": 1, "b.c.d": 2, "b.e": {}, "f": [{"g": 3}]}
