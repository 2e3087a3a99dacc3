"""A run that makes the daemon write every key that it knows, and all JSON that came of it.

Two ranks of a job, an encoder and a decoder, epochs, evaluations, a loss that is NaN, a rank that
is killed, a trainer that stalls, checkpoints good and bad, a segment that is refused: what a
quiet run leaves empty is filled here.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from daemon_process import DaemonProcess, wait_until
from fake_trainer import HEAD_DIM, HEADS, QUERIES, FakeRank, make_attention, make_hello
from written import history, load

from trackside.wire.records import Attention, LoggedScalar
from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.policy import BestBy

NUM_STEPS = 70  # at least: what is said of a run over its samples needs 64
BURST = 10  # steps; more at once, and the daemon would leave things out
SETTINGS = """\
[checkpoints]
poll_seconds = 0.2
[alerts.stalled_trainer]
intervals = 0.01  # samples are dated a second apart
min_seconds = 0.1
"""


@dataclass(frozen=True)
class Told:
    """All JSON: kind of file to pairs of where it was found and what it holds."""

    by_kind: dict[str, list[tuple[str, Mapping[str, Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, kind: str, where: str, document: Mapping[str, Any]) -> None:
        self.by_kind[kind].append((where, document))


def tell(shm_dir: Path, directory: Path) -> Told:
    """Let the run happen, and gather what it left.

    Args:
        shm_dir: the node-local directory.
        directory: for everything else.
    """
    told = Told()
    settings = directory / "daemon.toml"
    settings.write_text(SETTINGS)
    checkpoints = directory / "checkpoints"
    save_checkpoints(checkpoints)
    daemon = DaemonProcess(shm_dir, directory / "daemon.log")
    try:
        (shm_dir / "other.r0.1.a.ring").write_bytes(b"no segment")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            daemon.start("--config", str(settings), "--http", address)
            wait_until(lambda: http_of(daemon).get("problem") is not None)
        wait_until(lambda: http_of(daemon).get("pid") is not None)  # it is tried again
        train(daemon, directory / "run", checkpoints, told)
    finally:
        daemon.kill()
    told.add("status", "status --json without a daemon", ask_status(shm_dir))
    for path in sorted((directory / "run").rglob("*.json*")):
        add_file(told, path, path.relative_to(directory / "run"))
    add_file(told, checkpoints / "averaged_model.json", Path("averaged_model.json"))
    told.add("averaged_model.json", "best.json", load(average_the_best(checkpoints)))
    return told


def save_checkpoints(directory: Path) -> None:
    """Three that are good, the newest of them twice, and one that is half written."""
    directory.mkdir()
    for step in (1, 2, 3):
        state = {"weight": torch.full((3,), float(step))}
        optimizer = {"state": torch.zeros(3)}
        torch.save({"model": state, "optimizer": optimizer}, directory / f"step_{step}.pt")
    shutil.copyfile(directory / "step_3.pt", directory / "last.pt")
    os.utime(directory / "last.pt", (0, 0))
    whole = (directory / "step_3.pt").read_bytes()
    (directory / "step_4.pt").write_bytes(whole[: len(whole) // 2])


def average_the_best(checkpoints: Path) -> Path:
    scores = {f"step_{step}.pt": {"val_loss": 1.0 / step} for step in (1, 2, 3)}
    (checkpoints / "metrics.json").write_text(json.dumps(scores))
    request = AverageRequest(
        directory=checkpoints,
        output_name="best.pt",
        count=2,
        best=BestBy(metric="val_loss", mode="min"),
    )
    run_average(request)
    return checkpoints / "best.json"


def train(daemon: DaemonProcess, out: Path, checkpoints: Path, told: Told) -> None:
    """Train two ranks: the first goes on to the end, the second is killed."""
    hello = make_hello(
        out,
        world_size=2,
        local_world_size=2,
        checkpoints=(str(checkpoints),),
        config={"batch_size": 8},
        visualize=("statistics",),
    )
    ranks = [
        FakeRank(
            daemon.directory,
            replace(hello, rank=rank, local_rank=rank),
            nonce=f"rank{rank}",
            ring_bytes=1 << 22,
        )
        for rank in (0, 1)
    ]
    last = 0
    while last < NUM_STEPS or not any(line["host"] for line in history(out)[-BURST:]):
        first, last = last + 1, last + BURST
        for step in range(first, last + 1):
            for rank in ranks:
                publish(rank, step)
        # A line that is being written could be met half, the status cannot.
        wait_until(lambda last=last: committed(daemon) == last)
    wait_until(lambda: "alerts" in load(out / "run.json"))  # of the trainer that stalls now
    wait_until(lambda: bool(load(out / "run.json")["averages"]))
    wait_until(lambda: says_all(daemon.status))
    told.add("status.json", "status.json", daemon.status)
    told.add("status", "status --json", ask_status(daemon.directory))
    ranks[1].abandon()
    ranks[0].close(steps=last)
    wait_until(lambda: "reported_segments" in load(out / "run.json"))
    wait_until(lambda: not list(daemon.directory.glob("fake-run*.ring")))


def publish(rank: FakeRank, step: int) -> None:
    calls, arrays = attention(step) if rank.hello.rank == 0 else ((), {})
    rank.publish(
        step,
        arrays=arrays,
        attention=calls,
        epoch=1 + step // 30,
        timestamp=time.time() - 1000 + step,
        loss=math.nan if step == NUM_STEPS // 2 else 3.0 + 1.0 / step,
        amp_scale=65536.0,
        step_seconds=0.1 + rank.hello.rank,  # the second holds the first up
        local_seconds=0.05 + rank.hello.rank,
        shrunk=("512 of 1024 query rows",),
        scalars=(LoggedScalar(step=step, name="eval_loss", value=2.0 / step),),
    )


def attention(step: int) -> tuple[tuple[Attention, ...], dict[str, Any]]:
    """One call of each kind."""
    calls = (
        replace(make_attention(), stack="encoder", is_causal=False, module="encoder.0"),
        make_attention(),
        replace(make_attention(), type="cross_attention", is_causal=False, module="cross.0"),
    )
    random = np.random.default_rng(step)
    shape = (HEADS, QUERIES, HEAD_DIM)
    arrays = {
        f"attention/{index}/{name}": random.standard_normal(shape, dtype=np.float32)
        for index in range(len(calls))
        for name in ("query", "key")
    }
    return calls, arrays


def committed(daemon: DaemonProcess) -> int:
    runs = daemon.status["runs"]
    return int(runs[0]["committed_step"]) if runs else 0


def says_all(status: Mapping[str, Any]) -> bool:
    """Whether it has come to the status, which is written a little later than the files."""
    (run,), (directory,) = status["runs"], status["checkpoints"]["directories"]
    return bool(status["refused"] and run["alerts"] and directory["last"] and directory["refused"])


def http_of(daemon: DaemonProcess) -> Mapping[str, Any]:
    is_there = (daemon.directory / "status.json").exists()
    return (daemon.status["http"] or {}) if is_there else {}


def ask_status(shm_dir: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tracksided", "status", "--json"],
        env=os.environ | {"TRACKSIDE_SHM_DIR": str(shm_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {3, 4, 5}, done.stderr  # no daemon, or alerts
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def add_file(told: Told, path: Path, shown: Path) -> None:
    """Take all objects of a file: the lines of one, or its one."""
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            told.add(path.name, f"{shown}:{number}", json.loads(line))
    else:
        told.add(path.name, str(shown), load(path))
