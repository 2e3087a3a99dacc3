"""`examples/copying.py` as a user runs it: what it leaves is what lies in `examples/logs`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT
from written import load

pytestmark = pytest.mark.integration

LOGS = ROOT / "examples/logs"


def shape(state: dict[str, Any]) -> tuple[set[str], set[frozenset[str]]]:
    """Return the names of what a trainer logged: of the whole training, and of each kind of row."""
    return set(state), {frozenset(row) for row in state["log_history"]}


def test_the_logs_are_what_the_example_leaves(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples/copying.py"), "--out", str(tmp_path)]

    done = subprocess.run([*command, "--steps", "120"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    state = load(tmp_path / "trainer_state.json")
    assert [row["step"] for row in state["log_history"] if "loss" in row] == list(range(6, 121, 6))
    for name in ("copying", "copying-slowly"):
        assert shape(load(LOGS / name / "trainer_state.json")) == shape(state)
