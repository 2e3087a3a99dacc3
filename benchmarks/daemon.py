"""What the daemon bears and what it takes: rate and idle CPU; memory is `soak.py`'s.

    python benchmarks/daemon.py [--seconds 20]

`rate`: eight ranks publish one sampled step a second each, rank 0 with two attention layers
(8 heads, 128 x 128); nothing may be dropped or shed. `idle`: CPU of daemon and worker with no
run, and with eight ranks that are attached and silent.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from frame import Benchmark, Findings
from tables import Column, Limit, Table

FLOOD = Path(__file__).parents[1] / "tests" / "support" / "flood.py"
RANKS = 8
IDLE_LIMIT_PERCENT = 1.0
SHOWN_DIGITS = 3
IDLE = "idle, no run, CPU, % of a core"
COMPLETE = f"{RANKS} ranks, steps with all ranks"
DROPS = f"{RANKS} ranks, drops"
SHED = f"{RANKS} ranks, steps shed"
SETTLE_S = 3.0  # imports, first looks
POLL_S = 0.1
SILENCE_S = 1e6  # until the first step of ranks that are to be silent


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=int, default=20, help="of each part")


def measure(arguments: argparse.Namespace) -> Findings:
    values = {**idle(arguments.seconds), **rate(arguments.seconds)}
    rows = [{"what": what, "value": value} for what, value in values.items()]
    columns = (Column("what", "what"), Column("value", "value"))
    lost = arguments.seconds - values[COMPLETE] + values[DROPS] + values[SHED]
    return Findings(
        {"values": Table(columns, rows)},
        [
            Limit(f"{RANKS} ranks, a sampled step a second each: lost steps", "<=", 0, {"": lost}),
            Limit("idle CPU, % of a core", "<=", IDLE_LIMIT_PERCENT, {"": values[IDLE]}),
        ],
    )


class Site:
    """A daemon with a node-local directory and outputs of its own."""

    def __init__(self, directory: Path, outputs: Path, settings: str) -> None:
        self.directory = directory
        self.outputs = outputs
        self.environ = os.environ | {"TRACKSIDE_SHM_DIR": str(directory)}
        config = outputs / "daemon.toml"
        config.write_text(settings, encoding="utf-8")
        with (outputs / "daemon.log").open("wb") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "tracksided", "daemon", "--config", config],
                env=self.environ,
                stdout=log,
                stderr=log,
            )
        while not (directory / "status.json").exists():
            time.sleep(POLL_S)

    def flood(self, ranks: int, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, FLOOD, self.directory, self.outputs / "run", str(ranks), *words],
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        )

    def family(self) -> list[psutil.Process]:
        daemon = psutil.Process(self.daemon.pid)
        return [daemon, *daemon.children(recursive=True)]

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.family()]
        return sum(entry.user + entry.system for entry in times)

    def lines(self, run: str = "run") -> list[dict[str, object]]:
        """Read what is committed; ``run`` is a folder below the outputs."""
        path = self.outputs / run / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def drain(self) -> None:
        while list(self.directory.glob("*.ring")):
            time.sleep(POLL_S)


@contextlib.contextmanager
def site(settings: str = "") -> Iterator[Site]:
    directory = Path("/dev/shm") / f"ts-bench-{secrets.token_hex(3)}"  # noqa: S108 - the real thing
    directory.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(prefix="daemon-bench-") as outputs:
        served = Site(directory, Path(outputs), settings)
        try:
            yield served
        finally:
            served.daemon.terminate()
            served.daemon.wait()
            shutil.rmtree(directory)


def idle(seconds: int) -> dict[str, float]:
    with site() as served:
        time.sleep(SETTLE_S)
        alone = share_of_cpu(served, seconds)
        silent = served.flood(RANKS, "1", str(SILENCE_S))
        while len(list(served.directory.glob("*.ring"))) < RANKS:
            time.sleep(POLL_S)
        time.sleep(SETTLE_S)
        attached = share_of_cpu(served, seconds)
        silent.kill()
        silent.wait()
        served.drain()
    return {IDLE: alone, f"idle, {RANKS} silent ranks, CPU, % of a core": attached}


def share_of_cpu(served: Site, seconds: int) -> float:
    before, start = served.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    percent = 100 * (served.cpu_seconds() - before) / (time.monotonic() - start)
    return round(percent, SHOWN_DIGITS)


def rate(seconds: int) -> dict[str, float]:
    with site() as served:
        before = served.cpu_seconds()
        flood = served.flood(RANKS, str(seconds), "1.0")
        drops = int(flood.communicate()[0])
        served.drain()
        used = served.cpu_seconds() - before
        lines = served.lines()
    return {
        f"{RANKS} ranks, steps published": seconds,
        f"{RANKS} ranks, steps written": len(lines),
        COMPLETE: sum(len(line["ranks"]) == RANKS for line in lines),
        DROPS: drops,
        SHED: sum(line["shed"] is not None for line in lines),
        f"{RANKS} ranks, CPU, % of a core": round(100 * used / seconds, SHOWN_DIGITS),
    }


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"seconds": 5},
    packages=("numpy", "pyzmq"),
)

if __name__ == "__main__":
    BENCHMARK.main()
