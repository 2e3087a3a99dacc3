"""Alerts of a real daemon: once each, whatever is killed when."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from written import history

pytestmark = pytest.mark.integration


def alerts_in(out: Path) -> list[dict[str, Any]]:
    path = out / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def status(shm_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "tracksided", "status"],
        env={"TRACKSIDE_SHM_DIR": str(shm_dir), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_alert_goes_from_the_ring_to_file_status_and_command(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out, got, config = tmp_path / "out", tmp_path / "got", tmp_path / "daemon.toml"
    config.write_text(f'[alerts]\napprise = ["json://u:secret@h"]\ncommand = ["tee", "{got}"]\n')
    daemon.start("--config", str(config))
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(10)
    rank.publish(20, loss=math.nan)
    rank.publish(30, loss=math.nan)

    wait_until(lambda: len(history(out)) == 3 and got.exists() and bool(got.read_text()))
    wait_until(lambda: bool(daemon.status["runs"][0]["alerts"]))

    (alert,) = alerts_in(out)
    assert (alert["rule"], alert["severity"], alert["step"]) == ("nonfinite", "critical", 20)
    assert json.loads(got.read_text()) == alert
    shown = status(shm_dir)
    assert shown.returncode == 5
    assert "critical nonfinite at step 20: the loss is NaN" in shown.stdout
    assert "secret" not in (shm_dir / "status.json").read_text()
    assert "secret" not in daemon.output
    rank.close(steps=30)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))


def test_killed_daemon_neither_loses_an_alert_nor_raises_it_again(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    rank = FakeRank(shm_dir, make_hello(out))
    daemon.start()
    for step in range(1, 13):
        rank.publish(step, loss=math.nan if step >= 3 else 1.0)
        if step % 4 == 0:
            daemon.kill()
            daemon.start()
    rank.close(steps=12)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert [line["step"] for line in history(out)] == list(range(1, 13))
    raised = [alert["step"] for line in history(out) for alert in line["alerts"]]
    assert raised == [alert["step"] for alert in alerts_in(out)] == [3]
