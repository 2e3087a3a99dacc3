"""Writes what trainers leave behind: a Trainer's state, a run of trackside; and makes curves."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fake_trainer import make_hello, make_step

from tracksided.assemble import RankStep, assemble
from tracksided.outputs import RunOutputs
from tracksided.progress.curve import Kind, TrainingCurve
from tracksided.reports import Alert

Row = dict[str, Any]

# As transformers 5.23 wrote it after 60 of 120 steps.
STATE: dict[str, Any] = {
    "best_metric": None,
    "epoch": 1.2,
    "eval_steps": 20,
    "global_step": 60,
    "is_world_process_zero": True,
    "logging_steps": 5,
    "max_steps": 120,
    "num_input_tokens_seen": 0,
    "num_train_epochs": 3,
    "save_steps": 20,
    "total_flos": 1000.0,
    "train_batch_size": 4,
}


def make_curve(**changes: Any) -> TrainingCurve:
    """Return a curve of which nothing is known but these fields."""
    return TrainingCurve(name="run", source=Path("run"), kind=Kind.TRAINER_STATE, **changes)


def make_alert(**changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "rule": "loss_spike",
        "severity": "warning",
        "run": "fake-run",
        "step": 20,
        "rank": None,
        "value": 9.0,
        "threshold": 5.0,
        "message": "loss 9 | median 1",
        "advice": "look at the batch",
        "timestamp": 1.0,
    }
    return Alert(**{**fields, **changes})


def train_row(step: int, loss: float, **more: Any) -> Row:
    row = {"epoch": step / 50, "grad_norm": 0.5, "learning_rate": 1e-3, "loss": loss, "step": step}
    return {**row, **more}


def eval_row(step: int, loss: float) -> Row:
    return {"epoch": step / 50, "eval_loss": loss, "eval_runtime": 0.1, "step": step}


def write_state(directory: Path, rows: Sequence[object], **changes: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "trainer_state.json"
    state = {**STATE, **changes, "log_history": list(rows)}
    path.write_text(json.dumps({key: value for key, value in state.items() if value != "absent"}))
    return path


def write_run(directory: Path, steps: Sequence[Row], **hello: Any) -> Path:
    """Write a run as the daemon does, up to before its end; return ``history.jsonl``.

    Args:
        directory: of the run.
        steps: keywords of `fake_trainer.make_step`.
        hello: changes to the run's own description.
    """
    said = make_hello(directory, **hello)
    outputs = RunOutputs(directory, time.time)
    outputs.begin(said)
    for number, keywords in enumerate(steps, start=1):
        report = assemble([RankStep(said, make_step(**keywords))], None)
        outputs.commit(report, {0: ("nonce", number)})
    outputs.close()
    return directory / "history.jsonl"
