"""Metrics in the Trainer's own state."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tracksided.checkpoints.formats.trainer_logs import logged_metrics
from tracksided.checkpoints.job import AverageRequest, plan_average
from tracksided.checkpoints.policy import BestBy
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceDirectory


def logs(step: int, *, evaluated: dict[int, float]) -> list[dict[str, float]]:
    """What the Trainer has logged by a step: the training loss, and evaluations between."""
    rows = []
    for at in range(10, step + 1, 10):
        rows.append({"epoch": at / 100, "grad_norm": 1.0, "loss": 2.0, "step": at})
        if at in evaluated:
            rows.append({"epoch": at / 100, "eval_loss": evaluated[at], "step": at})
    return rows


def save(directory: Path, step: int, **state: Any) -> None:
    inside = directory / f"checkpoint-{step}"
    inside.mkdir()
    save_file({"w": torch.full((3,), float(step))}, inside / "model.safetensors")
    content = {"global_step": step, "epoch": step / 100, **state}
    written = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (inside / "trainer_state.json").write_text(written)


def plan(directory: Path, metric: str, count: int = 2) -> tuple[list[int | None], dict[str, str]]:
    best = BestBy(metric=metric, mode="min")
    request = AverageRequest(
        directory=directory, patterns=("checkpoint-*/",), best=best, count=count
    )
    planned = plan_average(request)
    reasons = {entry.name: entry.reason for entry in planned.skipped}
    return [source.step for source in planned.sources], reasons


def read(directory: Path, step: int, at: int | None = None) -> dict[str, float]:
    source = SourceDirectory(directory / f"checkpoint-{step}")
    try:
        return logged_metrics(source.open("trainer_state.json"), step if at is None else at)
    finally:
        source.close()


def test_the_evaluation_at_a_checkpoints_own_step_counts(tmp_path: Path) -> None:
    evaluated = {20: 0.4, 40: 0.1, 60: 0.3, 80: 0.2}
    for step in (20, 40, 60, 80):
        save(tmp_path, step, log_history=logs(step, evaluated=evaluated))

    assert plan(tmp_path, "eval_loss")[0] == [40, 80]


def test_a_checkpoint_without_evaluation_of_its_own_is_skipped(tmp_path: Path) -> None:
    evaluated = {20: 0.4, 30: 0.0, 60: 0.3, 80: math.nan, 100: 0.5}
    for step in (20, 40, 60, 80, 100):
        save(tmp_path, step, log_history=logs(step, evaluated=evaluated))

    steps, reasons = plan(tmp_path, "eval_loss")

    assert steps == [20, 60]
    assert reasons["checkpoint-40"].startswith("states no 'eval_loss' at its step 40")
    assert reasons["checkpoint-80"] == "its 'eval_loss' is nan"


def test_the_latest_entry_of_a_step_counts(tmp_path: Path) -> None:
    rows = [{"eval_loss": 0.9, "step": 20}, {"eval_loss": 0.1, "step": 20}]
    save(tmp_path, 20, log_history=rows)

    assert read(tmp_path, 20) == {"eval_loss": 0.1, "step": 20.0}


def test_best_metric_is_that_of_the_checkpoint_which_was_the_best(tmp_path: Path) -> None:
    for step, best in ((20, 20), (40, 20), (60, 60)):
        save(
            tmp_path,
            step,
            log_history=logs(step, evaluated={}),
            best_metric=1 / best,
            best_model_checkpoint=f"/cluster/run/checkpoint-{best}",
        )

    steps, reasons = plan(tmp_path, "best_metric")

    assert steps == [20, 60]
    assert "states no 'best_metric' at its step 40" in reasons["checkpoint-40"]


def test_logs_of_any_length_are_read_in_small_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = {at: 1 / at for at in range(10, 401, 10)}
    save(tmp_path, 400, log_history=logs(400, evaluated=evaluated))

    for nbytes in (1, 7, 64, 1 << 20):
        monkeypatch.setattr("tracksided.checkpoints.formats.trainer_logs._BLOCK_BYTES", nbytes)
        assert read(tmp_path, 400)["eval_loss"] == 1 / 400
        assert read(tmp_path, 400, at=390)["eval_loss"] == 1 / 390


@pytest.mark.parametrize("state", [{}, {"log_history": []}, {"log_history": [[], 3, {}]}])
def test_a_state_without_logs_states_nothing(tmp_path: Path, state: dict[str, Any]) -> None:
    save(tmp_path, 20, **state)

    assert read(tmp_path, 20) == {}


@pytest.mark.parametrize(
    "state",
    [
        '{"global_step": 20, "log_history": [{"step": 20, ',
        '{"global_step": 20, "log_history": [{"step": 20} nonsense',
        '{"global_step": 20 oops, "log_history": []}',
        '{"log_history": [' + "[" * 100_000,
        '{"log_history": [{"text": "' + "x" * (2 << 20) + '"}]}',
        '{"padding": "' + "x" * (2 << 20) + '"}',
    ],
)
def test_damaged_logs_are_refused(tmp_path: Path, state: str) -> None:
    save(tmp_path, 20)
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text(state)

    with pytest.raises(SourceRefused, match=r"trainer_state\.json: its logs cannot be read"):
        read(tmp_path, 20)
