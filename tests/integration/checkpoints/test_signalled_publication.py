"""A signal at any system call ends an averaging with one whole average and nothing half made."""

import fcntl
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from debris import debris
from safetensors.torch import load_file
from saved_steps import save_directory, save_torch

from tracksided.checkpoints import renaming
from tracksided.checkpoints.ending import signals_as_exits
from tracksided.checkpoints.job import AverageRequest, run_average

pytestmark = pytest.mark.integration

CALLS = (
    *((os, name) for name in ("open", "close", "fchmod", "posix_fallocate", "pwrite", "fsync")),
    *((os, name) for name in ("mkdir", "rename", "unlink", "rmdir")),
    (fcntl, "flock"),
    (renaming, "_rename"),
)
MINE = {"notes.txt": "mine", "eval/scores.json": "0.9"}
NEW_STEPS = [1, 2, 3]


class Signalled:
    """Sends SIGTERM right after the k-th of some system calls, or after each from there on."""

    def __init__(self, patch: pytest.MonkeyPatch, *, insists: bool) -> None:
        self._insists = insists
        self._signals_at = 0
        self.num_calls = 0
        for owner, name in CALLS:
            patch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def begin(self, signals_at: int) -> None:
        """Count from the start again."""
        self._signals_at, self.num_calls = signals_at, 0

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            self.num_calls += 1
            is_due = self.num_calls == self._signals_at
            if is_due or (self._insists and self.num_calls > self._signals_at > 0):
                signal.raise_signal(signal.SIGTERM)
            return result

        return act


def load_torch(directory: Path) -> tuple[torch.Tensor, Path]:
    state = torch.load(directory / "averaged_model.pt", weights_only=True)
    return state["w"], directory / "averaged_model.json"


def load_directory(directory: Path) -> tuple[torch.Tensor, Path]:
    inside = directory / "averaged"
    assert {name: (inside / name).read_text() for name in MINE} == MINE
    assert len(list(inside.iterdir())) == 5  # weights, configuration, description, and what is mine
    return load_file(inside / "model.safetensors")["w"], inside / "averaging.json"


def average(directory: Path, count: int) -> None:
    patterns = ("*.pt", "checkpoint-*/")
    run_average(AverageRequest(directory=directory, patterns=patterns, count=count, num_threads=1))


@pytest.mark.parametrize("insists", [False, True])
@pytest.mark.parametrize(
    ("save", "load"), [(save_torch, load_torch), (save_directory, load_directory)]
)
def test_a_signal_at_any_moment_leaves_one_whole_average_and_no_debris(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[[Path, int], None],
    load: Callable[[Path], tuple[torch.Tensor, Path]],
    *,
    insists: bool,
) -> None:
    for step in NEW_STEPS:
        save(tmp_path, step)
    average(tmp_path, 2)
    if (tmp_path / "averaged").exists():
        (tmp_path / "averaged" / "eval").mkdir()
        for name, text in MINE.items():
            (tmp_path / "averaged" / name).write_text(text)
    signalled = Signalled(monkeypatch, insists=insists)
    found: list[list[int]] = []
    signals_at = num_ended = 0

    while num_ended == signals_at:
        signals_at += 1
        signalled.begin(signals_at)
        try:
            with signals_as_exits(signal.SIGTERM):
                average(tmp_path, 3)
        except SystemExit as ended:
            assert ended.code == 128 + signal.SIGTERM  # noqa: PT017 - one of two outcomes
            num_ended += 1
        signalled.begin(0)
        assert debris(tmp_path) == []
        weights, description = load(tmp_path)
        steps = [source["step"] for source in json.loads(description.read_text())["sources"]]
        assert torch.equal(weights, torch.full((50,), sum(steps) / len(steps)))
        found.append(steps)
        if steps == NEW_STEPS:
            average(tmp_path, 2)

    assert signalled.num_calls > 0
    assert num_ended > 40
    assert found[0] == [2, 3]
    assert found[-1] == NEW_STEPS
