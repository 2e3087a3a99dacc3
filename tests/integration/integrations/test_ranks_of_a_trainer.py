"""The Trainer's own DDP: two ranks, accumulation, one run."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchrun import TORCHRUN

from trackside.wire import segment

pytestmark = pytest.mark.integration


def test_two_ranks_of_a_trainer_are_one_run(
    receive_from: Callable[[Path], Any], shm_dir: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("ranks_of_a_trainer.py")
    command = [*TORCHRUN, "--nproc-per-node", "2", str(script), str(tmp_path)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}

    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=150, check=False
    )

    assert done.returncode == 0, done.stderr
    ranks = {received.hello.rank: received for received in map(receive_from, segment.scan(shm_dir))}
    assert sorted(ranks) == [0, 1]
    assert ranks[0].hello.run == ranks[1].hello.run
    rows = json.loads((tmp_path / "log.json").read_text())
    log = {row["step"]: row for row in rows if "loss" in row}
    for number in (2, 4):
        first, second = (ranks[rank].steps[number] for rank in (0, 1))
        # The Trainer logs the mean over the ranks.
        assert (first.loss + second.loss) / 2 == pytest.approx(log[number]["loss"], rel=1e-6)
        assert first.loss != second.loss
        assert first.micro_batches == 2
        assert first.norm_before_clip == pytest.approx(log[number]["grad_norm"], rel=1e-6)
        assert ranks[0].modules(number) == ["transformer.h.0.attn", "transformer.h.1.attn"]
        assert ranks[1].modules(number) == []
