"""Metrics that are missing, damaged or hostile cost their checkpoint only, with the reason."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from best_checkpoints import LOSSES, model, reasons_of, score, steps_of
from evil import Evil

Save = Callable[..., list[dict[str, torch.Tensor]]]


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({}, "states no 'val_loss'"),
        ({"val_los": 0.1}, "states no 'val_loss'; did you mean 'val_los'?"),
        ({"accuracy": 0.1, "f1": 2}, "states no 'val_loss'; it states accuracy, f1"),
        ({"\x1b": 0.1, "n" * 999: 2}, r"it states \x1b, " + "n" * 100 + "..."),
        ({f"m{n}": n for n in range(9)}, "it states m0, m1, m2, m3, m4, m5 and 3 more"),
        ({"val_loss": "0.1"}, "states no 'val_loss'"),
        ({"val_loss": None}, "states no 'val_loss'"),
        ({"val_loss": math.nan}, "its 'val_loss' is nan"),
        ({"val_loss": math.inf}, "its 'val_loss' is inf"),
        ({"val_loss": -(10**400)}, "its 'val_loss' is -inf"),
        ([0.1], "states no 'val_loss'"),
    ],
)
def test_one_without_the_metric_is_skipped_with_the_reason(
    tmp_path: Path, save_steps: Save, stated: object, reason: str
) -> None:
    save_steps(1, 2, 3)
    score(tmp_path, {1: 0.1, 3: 0.3})
    (tmp_path / "step_2.json").write_text(json.dumps(stated))

    assert reasons_of(tmp_path)["step_2.pt"].endswith(reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "step_2.json: is no complete JSON"),
        (b"\xff\xfe\x00", "step_2.json: is no complete JSON"),
        (b"[" * 200_000, "step_2.json: is no complete JSON"),
        (b" " * (5 << 20), "step_2.json: 5242880 bytes, more than the 4194304 read here"),
    ],
)
def test_a_damaged_file_of_metrics_costs_its_checkpoint_only(
    tmp_path: Path, save_steps: Save, content: bytes, reason: str
) -> None:
    save_steps(1, 2, 3)
    score(tmp_path, {1: 0.1, 3: 0.3})
    (tmp_path / "step_2.json").write_bytes(content)

    assert steps_of(tmp_path) == [1, 3]
    assert reason in reasons_of(tmp_path)["step_2.pt"]


def test_a_pipe_for_a_file_of_metrics_is_refused_not_waited_for(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3)
    score(tmp_path, {1: 0.1, 3: 0.3})
    os.mkfifo(tmp_path / "step_2.json")

    assert "step_2.json: not a regular file" in reasons_of(tmp_path)["step_2.pt"]


def test_a_metric_whose_checksum_does_not_match_is_refused(tmp_path: Path) -> None:
    for step, loss in LOSSES.items():
        content = {"model": model(step), "val_loss": torch.tensor(loss, dtype=torch.float64)}
        torch.save(content, tmp_path / f"step_{step}.pt")
    path = tmp_path / "step_200.pt"
    stored = torch.tensor(0.1, dtype=torch.float64).numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(stored, bytes(8)))

    assert "corrupt: its CRC-32" in reasons_of(tmp_path)["step_200.pt"]
    assert steps_of(tmp_path) == [100, 300]


def test_reading_metrics_executes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    for step, loss in LOSSES.items():
        content = {"model": model(step), "metrics": {"val_loss": loss, "f1": Evil(marker)}}
        content |= {"val_loss": Evil(marker), "callbacks": {"a": Evil(marker)}}
        torch.save(content, tmp_path / f"step_{step}.pt")

    assert steps_of(tmp_path, count=2) == [200, 300]
    assert not marker.exists()
