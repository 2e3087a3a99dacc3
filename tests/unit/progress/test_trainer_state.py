"""trainer_state.json of Hugging Face's Trainer."""

import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_logs import eval_row, train_row, write_state

from tracksided.errors import ReportError
from tracksided.progress import trainer_state
from tracksided.progress.trainer_state import read_trainer_state

NUMBERS = st.floats() | st.integers() | st.none() | st.text(max_size=3) | st.booleans()
LOG_ROWS = st.lists(
    st.dictionaries(st.sampled_from(["step", "loss", "eval_loss", "grad_norm", "x"]), NUMBERS)
    | NUMBERS,
    max_size=20,
)


def test_rows_of_training_and_evaluation_are_told_apart(tmp_path: Path) -> None:
    path = write_state(
        tmp_path, [train_row(5, 3.0), train_row(20, 2.0), eval_row(20, 2.5), train_row(25, 1.0)]
    )

    curve = read_trainer_state(path, "run")

    assert curve.loss.steps.tolist() == [5, 20, 25]
    assert curve.loss.values.tolist() == [3.0, 2.0, 1.0]
    assert {name: series.values.tolist() for name, series in curve.evaluation.items()} == {
        "eval_loss": [2.5]
    }
    assert (curve.step, curve.max_steps, curve.num_epochs) == (60, 120, 3.0)
    assert curve.epoch.values[-1] == 0.5


def test_bare_nan_is_a_value_that_was_seen(tmp_path: Path) -> None:
    path = write_state(tmp_path, [train_row(5, math.nan), train_row(10, math.inf)])
    assert "NaN" in path.read_text()

    values = read_trainer_state(path, "run").loss.values

    assert math.isnan(values[0])
    assert values[1] == math.inf


def test_totals_come_from_the_row_that_ends_a_training(tmp_path: Path) -> None:
    final = {
        "step": 60,
        "train_loss": 2.25,
        "train_runtime": 30.0,
        "train_samples_per_second": 8.0,
        "train_steps_per_second": 2.0,
        "total_flos": 1000.0,
    }
    whole = write_state(tmp_path / "whole", [train_row(5, 3.0), final])
    copy = write_state(tmp_path / "checkpoint-60", [train_row(5, 3.0)])

    totals = read_trainer_state(whole, "run").totals

    assert (totals.mean_loss, totals.training_seconds) == (2.25, 30.0)
    assert (totals.samples_per_second, totals.steps_per_second) == (8.0, 2.0)
    assert totals.tokens is None
    assert read_trainer_state(copy, "run").totals.training_seconds is None


def test_evaluation_after_the_end_leaves_the_totals(tmp_path: Path) -> None:
    final = {"step": 60, "train_loss": 2.25, "train_runtime": 30.0}
    ended = write_state(tmp_path / "ended", [train_row(60, 3.0), final, eval_row(60, 2.5)])
    goes_on = write_state(tmp_path / "goes_on", [final, eval_row(60, 2.5), train_row(65, 3.0)])

    totals = read_trainer_state(ended, "run").totals

    assert (totals.mean_loss, totals.training_seconds) == (2.25, 30.0)
    assert read_trainer_state(goes_on, "run").totals.training_seconds is None


def test_step_time_is_the_difference_of_run_times(tmp_path: Path) -> None:
    times = [(10, 5.0), (20, 7.0), (30, 1.0), (40, 5.0)]  # resumed at 20: seconds count anew
    path = write_state(tmp_path, [train_row(step, 1.0, train_runtime=s) for step, s in times])

    series = read_trainer_state(path, "run").seconds_per_step

    assert series.steps.tolist() == [20, 40]
    np.testing.assert_allclose(series.values, [0.2, 0.4])


def test_speed_comes_from_the_times_of_checkpoints_where_no_row_has_any(tmp_path: Path) -> None:
    # The second was written 10 s after the first, the third 40 s later; the fourth is a copy.
    for step, written_at in ((20, 1000.0), (40, 1010.0), (200, 1050.0), (220, 1050.5)):
        path = write_state(tmp_path / f"checkpoint-{step}", [train_row(5, 1.0)], global_step=step)
        os.utime(path, (written_at, written_at))

    curve = read_trainer_state(tmp_path / "checkpoint-220" / "trainer_state.json", "run")

    assert curve.seconds_per_step.steps.tolist() == [40, 200]
    np.testing.assert_allclose(curve.seconds_per_step.values, [10 / 20, 40 / 160])
    assert "times of the checkpoints' files" in curve.notes[0]
    first = read_trainer_state(tmp_path / "checkpoint-20" / "trainer_state.json", "run")
    assert len(first.seconds_per_step) == 0
    assert first.notes == ()


@pytest.mark.parametrize("key", ["global_step", "log_history"])
def test_missing_field_is_named(tmp_path: Path, key: str) -> None:
    path = write_state(tmp_path, [])
    state = json.loads(path.read_text())
    del state[key]
    path.write_text(json.dumps(state))

    with pytest.raises(ReportError, match=f"has no '{key}'"):
        read_trainer_state(path, "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"global_step": 3', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[]", "holds a list, expected an object"),
        (b'{"global_step": "3", "log_history": []}', "'global_step' is '3', expected a step"),
        (b'{"global_step": 3, "log_history": {}}', "'log_history' is a dict, expected a list"),
    ],
)
def test_broken_file_is_named_with_what_was_found(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(content)

    with pytest.raises(ReportError, match=message) as caught:
        read_trainer_state(path, "run")

    assert str(path) in str(caught.value)


@settings(max_examples=60)
@given(LOG_ROWS)
def test_any_log_gives_ascending_steps_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object]
) -> None:
    path = write_state(tmp_path_factory.getbasetemp() / "any", rows)

    curve = read_trainer_state(path, "run")

    for series in (curve.loss, curve.gradient_norm, *curve.evaluation.values()):
        assert (np.diff(series.steps) > 0).all()
        assert len(series.steps) == len(series.values)


def test_training_arguments_are_read_without_unpickling(tmp_path: Path) -> None:
    path = write_state(tmp_path, [train_row(5, 1.0)])
    mark = tmp_path / "executed"

    class Touch:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (mark,)

    arguments = {"learning_rate": 0.003, "max_grad_norm": 0.5, "hub_token": "x", "evil": Touch()}
    torch.save(arguments, tmp_path / "training_args.bin")

    curve = read_trainer_state(path, "run")

    assert not mark.exists()
    assert curve.settings["learning_rate"] == 0.003
    assert curve.max_gradient_norm == 0.5
    assert not {"hub_token", "evil"} & curve.settings.keys()


def test_members_of_enumerations_are_told_as_any_python_pickles_them(tmp_path: Path) -> None:
    class ByValue:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path, ("linear",)

    class ByName:
        def __reduce__(self) -> tuple[object, tuple[object, str]]:
            return getattr, (Path, "cwd")

    class ByCall:
        def __reduce__(self) -> tuple[object, tuple[object, str]]:
            return isinstance, (Path, "cwd")

    path = write_state(tmp_path, [train_row(5, 1.0)])
    arguments = {"value": ByValue(), "name": ByName(), "call": ByCall()}
    torch.save(arguments, tmp_path / "training_args.bin")

    settings = read_trainer_state(path, "run").settings

    assert {key: settings.get(key) for key in arguments} == {
        "value": "linear",
        "name": "cwd",
        "call": None,
    }


def test_damaged_training_arguments_cost_the_settings_only(tmp_path: Path) -> None:
    path = write_state(tmp_path, [train_row(5, 1.0)])
    (tmp_path / "training_args.bin").write_bytes(b"PK\x03\x04 torn")

    curve = read_trainer_state(path, "run")

    assert len(curve.loss) == 1
    assert curve.notes[0] == ("training_args.bin tells no settings: 9 bytes are no checkpoint")


def test_settings_that_nest_too_deep_are_left_out(tmp_path: Path) -> None:
    path = write_state(tmp_path, [train_row(5, 3.0)])
    deep = "[" * 500 + "]" * 500
    state = json.loads(path.read_text()) | {"save_steps": "deep", "eval_steps": 7}
    path.write_text(json.dumps(state).replace('"deep"', deep))

    settings = read_trainer_state(path, "run").settings

    assert settings["eval_steps"] == 7
    assert "save_steps" not in settings


def test_a_state_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_state(tmp_path, [train_row(5, 3.0)])
    os.truncate(path, 1 << 40)  # sparse
    monkeypatch.setattr(trainer_state, "MAX_STATE_BYTES", 1 << 20)

    with pytest.raises(ReportError, match=r"trainer_state\.json has more than 1 MiB"):
        read_trainer_state(path, "run")


def test_an_argument_that_unfolds_without_end_is_left_out(tmp_path: Path) -> None:
    path = write_state(tmp_path, [train_row(5, 1.0)])
    joke: Any = ("ha",)
    for _ in range(64):
        joke = (joke, joke)
    arguments = {"report_to": ["tensorboard"], "joke": joke, "long": ["x"] * 2000}
    torch.save(arguments, tmp_path / "training_args.bin")

    settings = read_trainer_state(path, "run").settings

    assert settings["report_to"] == ["tensorboard"]
    assert not settings.keys() & {"joke", "long"}


def test_an_argument_that_nests_too_deep_is_left_out(tmp_path: Path) -> None:
    path = write_state(tmp_path, [train_row(5, 1.0)])
    torch.save({"a": 1}, tmp_path / "training_args.bin")
    depth = 20_000
    with zipfile.ZipFile(tmp_path / "training_args.bin") as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    lists = b"]" * depth + b"a" * (depth - 1)
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w") as archive:
        for name, content in records.items():
            pickled = b"\x80\x02}(X\1\0\0\0a" + lists + b"X\1\0\0\0bK\2u."
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)

    settings = read_trainer_state(path, "run").settings

    assert settings["b"] == 2
    assert "a" not in settings
