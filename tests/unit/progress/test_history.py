"""A run of trackside, read back."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_logs import make_alert, write_run

from trackside.wire.records import LoggedScalar
from tracksided.alerts.document import alert_document
from tracksided.errors import ReportError
from tracksided.progress.history import _parse, read_history
from tracksided.sinks import line_file
from tracksided.sinks.alerts import AlertsFile

TEXT = st.text(max_size=12) | st.sampled_from(['"ranks": [', ', "ranks": [', '\\", "ranks": ['])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def test_curve_has_what_the_daemon_wrote(tmp_path: Path) -> None:
    path = write_run(
        tmp_path,
        [
            {"step": 10, "loss": 3.0, "learning_rate": 1e-3, "step_seconds": 0.5, "epoch": 0},
            {"step": 20, "loss": math.nan, "learning_rate": 5e-4, "norm_before_clip": math.inf},
            {"step": 30, "loss": None, "norm_before_clip": 4.0, "max_norm": 1.5},
        ],
    )

    history = read_history(path, "run")

    curve = history.curve
    assert curve.loss.steps.tolist() == [10, 20]  # None is unknown and left out
    np.testing.assert_array_equal(curve.loss.values, [3.0, math.nan])
    assert curve.learning_rate.values[1] == 5e-4
    assert math.isnan(curve.gradient_norm.values[1])  # JSON cannot tell infinity from NaN
    assert curve.gradient_norm.values[2] == 4.0
    assert curve.max_gradient_norm == 1.5
    assert curve.seconds_per_step.values[0] == 0.5
    assert curve.epoch.steps[0] == 10
    assert (curve.step, curve.max_steps) == (30, None)
    assert history.run["run"] == "fake-run"
    assert history.totals == {}


def test_logged_values_of_an_evaluation_are_metrics(tmp_path: Path) -> None:
    logged = (
        LoggedScalar(step=10, name="Eval/loss", value=2.0),
        LoggedScalar(step=10, name="val_accuracy", value=math.nan),
        LoggedScalar(step=10, name="Trainer/loss", value=7.0),
        LoggedScalar(step=10, name="Eval/runtime", value=7.0),
    )
    path = write_run(tmp_path, [{"step": 10, "scalars": logged}])

    evaluation = read_history(path, "run").curve.evaluation

    assert evaluation["eval_loss"].values.tolist() == [2.0]
    assert math.isnan(evaluation["val_accuracy"].values[0])
    assert set(evaluation) == {"eval_loss", "val_accuracy"}


def test_line_that_is_still_written_waits(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10}, {"step": 20}])
    path.write_bytes(path.read_bytes()[:-7])

    curve = read_history(path, "run").curve

    assert curve.loss.steps.tolist() == [10]
    assert curve.notes == ()


def test_damaged_line_is_counted(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10}, {"step": 20}, {"step": 30}])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff\n" + lines[2])

    curve = read_history(path, "run").curve

    assert curve.loss.steps.tolist() == [10, 30]
    assert curve.notes == ("1 of 3 lines of history.jsonl are not readable",)


def test_training_that_went_back_counts_once(tmp_path: Path) -> None:
    steps = [{"step": s, "loss": float(i)} for i, s in enumerate((10, 20, 30, 20, 30, 40))]
    path = write_run(tmp_path, steps)

    curve = read_history(path, "run").curve

    assert curve.loss.steps.tolist() == [10, 20, 30, 40]
    assert curve.loss.values.tolist() == [0.0, 3.0, 4.0, 5.0]
    assert curve.notes == ("training went back from step 30 to step 20; the later try counts",)


def test_attention_is_looked_at_where_it_was_captured_and_still_counts(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": step} for step in (10, 20, 30, 40)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    layer = {"layer": 0, "module": "m", "type": "self_attention", "entropy": 1.0}
    for index in (1, 2):
        lines[index]["attention"]["decoder"] = [layer]

    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = read_history(path, "run")
    assert (history.first_attention["step"], history.last_attention["step"]) == (20, 30)
    assert history.curve.statistics["entropy of decoder layer 0 (self)"] == 1.0

    abandoned = [*lines, {**lines[3], "step": 20}]
    path.write_text("".join(json.dumps(line) + "\n" for line in abandoned))
    history = read_history(path, "run")
    assert (history.first_attention, history.last_attention) == ({}, {})


def test_lines_as_they_are_written_take_the_short_way(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10}])

    numbers, _ = _parse(path.read_bytes())

    assert "attention" not in numbers


def test_what_the_trainer_logs_of_the_whole_comes_from_event_files(tmp_path: Path) -> None:
    logged = tuple(
        LoggedScalar(step=step, name=f"Trainer/{name}", value=value)
        for step, name, value in (
            (5, "num_input_tokens_seen", 320.0),
            (10, "num_input_tokens_seen", 640.0),
            (10, "train_loss", 2.5),
            (10, "total_flos", 1024.0),
        )
    )
    path = write_run(tmp_path, [{"step": 10, "scalars": logged}])

    curve = read_history(path, "run").curve

    assert curve.tokens.steps.tolist() == [5, 10]
    assert curve.tokens.values.tolist() == [320.0, 640.0]
    assert (curve.totals.mean_loss, curve.totals.floating_point_operations) == (2.5, 1024.0)
    assert curve.totals.training_seconds is None


def test_metrics_stand_at_the_step_at_which_they_were_logged(tmp_path: Path) -> None:
    late = (LoggedScalar(step=13, name="Eval/loss", value=2.0),)
    path = write_run(tmp_path, [{"step": 20, "scalars": late}])

    assert read_history(path, "run").curve.evaluation["eval_loss"].steps.tolist() == [13]

    shutil.rmtree(tmp_path / "tensorboard")
    assert read_history(path, "run").curve.evaluation["eval_loss"].steps.tolist() == [20]


@pytest.mark.parametrize(
    ("sound", "damaged"),
    [
        (b'"ranks": [{', b'"ranks": [{{'),
        (b'"ranks": [{', b'"ranks": [\xff{'),
        (b'"nonfinite": []', b'"nonfinite": 5'),
    ],
)
def test_what_is_damaged_in_a_line_costs_no_more_than_itself(
    tmp_path: Path, sound: bytes, damaged: bytes
) -> None:
    path = write_run(tmp_path, [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}])
    content = path.read_bytes()
    assert content.count(sound) == 2
    path.write_bytes(content.replace(sound, damaged))

    curve = read_history(path, "run").curve

    assert curve.loss.values.tolist() == [3.0, 2.0]
    assert curve.step == 20


def test_an_alert_with_a_number_beyond_any_is_passed_over(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10}])
    alert = alert_document(make_alert(step=10))
    lines = [json.dumps(alert), json.dumps(alert | {"value": 10**400})]
    (tmp_path / "alerts.jsonl").write_text("\n".join(lines))

    assert read_history(path, "run").curve.alerts == (make_alert(step=10),)


def test_a_line_of_alerts_that_nests_too_deep_is_passed_over(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10}])
    lines = ["[" * 100_000, json.dumps(alert_document(make_alert(step=10))), ""]
    (tmp_path / "alerts.jsonl").write_text("\n".join(lines))

    assert read_history(path, "run").curve.alerts == (make_alert(step=10),)


def test_a_pipe_in_the_place_of_the_alerts_is_not_waited_for(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10}])
    (tmp_path / "alerts.jsonl").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "alerts.jsonl")

    with pytest.raises(ReportError, match=r"cannot read .*alerts\.jsonl: No such device"):
        read_history(path, "run")


def test_a_line_without_end_takes_no_memory_and_counts_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "MAX_LINE_BYTES", 1 << 16)
    path = write_run(tmp_path, [{"step": 10}])
    path.write_bytes(path.read_bytes() + b" " * (1 << 17) + b'{"step": 20}\n')

    assert read_history(path, "run").curve.step == 10


def test_alerts_of_the_run_are_read_and_those_of_others_are_not(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10}])
    assert read_history(path, "run").curve.alerts == ()
    alerts = [make_alert(step=10), make_alert(step=20), make_alert(run="another")]
    file = AlertsFile(tmp_path)
    file.add(alerts)
    file.close()
    with (tmp_path / "alerts.jsonl").open("a") as torn:
        torn.write('{"rule": "loss_sp')

    assert read_history(path, "run").curve.alerts == tuple(alerts[:2])


def test_samples_dropped_are_those_of_all_ranks_once_totals_are_there(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 10, "dropped": {"ring_full": 2}}])
    assert read_history(path, "run").curve.statistics["dropped samples of the lowest rank"] == 2

    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "state": "finished"}))
    totals = {"run": "fake-run", "state": "finished", "dropped": {"ring_full": 3, "too_large": 1}}
    (tmp_path / "training_statistics.json").write_text(json.dumps(totals))
    assert read_history(path, "run").curve.statistics["dropped samples"] == 4


def test_totals_of_an_earlier_end_do_not_count_once_the_run_goes_on(tmp_path: Path) -> None:
    path = write_run(tmp_path, [{"step": 100}, {"step": 130}])
    totals = {"run": "fake-run", "state": "killed", "steps": 120, "processed": 1}
    totals |= {"started_at": 1000.0, "ended_at": 1060.5}
    (tmp_path / "training_statistics.json").write_text(json.dumps(totals))
    assert read_history(path, "run").totals == {}
    assert read_history(path, "run").curve.totals.training_seconds is None
    assert read_history(path, "run").curve.step == 130

    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "state": "killed"}))
    assert read_history(path, "run").totals == totals
    assert read_history(path, "run").curve.totals.training_seconds == 60.5
    assert read_history(path, "run").curve.step == 130  # its session began after step 0


def test_samples_of_a_step_come_from_the_trainers_own_arguments(tmp_path: Path) -> None:
    config = {
        "per_device_train_batch_size": 4,
        "train_batch_size": 8,
        "gradient_accumulation_steps": 3,
    }
    path = write_run(tmp_path / "trainer", [{"step": 10}], config=config, world_size=2)
    other = write_run(tmp_path / "other", [{"step": 10}], config={"train_batch_size": 8})

    curve = read_history(path, "run").curve

    assert curve.samples_per_step == 8 * 3 * 2
    assert read_history(other, "run").curve.samples_per_step is None


@pytest.mark.parametrize(
    ("max_steps", "expected"), [(-1, (None, 3.0)), (500, (500, None))], ids=["epochs", "steps"]
)
def test_a_trainers_steps_override_its_epochs(
    tmp_path: Path, max_steps: int, expected: tuple[int | None, float | None]
) -> None:
    """Its arguments name 3 epochs also where nobody asked for them."""
    config = {"max_steps": max_steps, "num_train_epochs": 3.0}
    path = write_run(tmp_path / "run", [{"step": 10}], config=config)

    curve = read_history(path, "run").curve

    assert (curve.max_steps, curve.num_epochs) == expected


def test_newest_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for number in (1, 2):
        (checkpoints / f"step_{number}.pt").write_bytes(b"x")
    path = write_run(tmp_path / "run", [{"step": 10}], checkpoints=(str(checkpoints),))

    curve = read_history(path, "run").curve

    assert curve.checkpoint == "step_2.pt"
    assert curve.checkpoint_at == pytest.approx((checkpoints / "step_2.pt").stat().st_mtime)


def test_file_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"a": 1}\n[]\n')

    with pytest.raises(ReportError, match=r"none of the 2 lines of .*history.jsonl has a 'step'"):
        read_history(path, "run")


@settings(max_examples=200)
@given(head=VALUES, ranks=VALUES, logged=st.dictionaries(TEXT, VALUES), failures=VALUES)
def test_quick_look_at_a_line_finds_what_parsing_it_finds(
    head: Any, ranks: Any, logged: dict[str, Any], failures: Any
) -> None:
    document = {
        "step": 1,
        "head": head,
        "ranks": [ranks],
        "attention": failures,
        "logged": logged,
        "failures": {"a": failures},
    }
    line = json.dumps(document).encode() + b"\n"

    numbers, found = _parse(line)

    assert found == logged
    assert (numbers["step"], numbers["head"]) == (1, head)


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=30), max_size=8))
def test_any_bytes_give_a_curve_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "history.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + b"\n".join(lines) + b"\n")

    assert len(read_history(path, "run").curve.loss) <= 1
