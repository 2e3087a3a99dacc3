"""What the daemon bears and what it takes: rate and idle CPU; memory is `soak.py`'s.

    python benchmarks/daemon.py [--seconds 20] [--json FILE]

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

FLOOD = Path(__file__).parents[1] / "tests" / "support" / "flood.py"
RANKS = 8
SETTLE_S = 3.0  # imports, first looks
POLL_S = 0.1
SILENCE_S = 1e6  # until the first step of ranks that are to be silent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {
        **idle(arguments.seconds),
        **rate(arguments.seconds),
    }
    print("| what | value |\n|---|---|")
    for name, value in results.items():
        print(f"| {name} | {value:g} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


class Site:
    """A daemon with a node-local directory and outputs of its own."""

    def __init__(self, directory: Path, outputs: Path) -> None:
        self.directory = directory
        self.outputs = outputs
        self.environ = os.environ | {"TRACKSIDE_SHM_DIR": str(directory)}
        with (outputs / "daemon.log").open("wb") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "tracksided", "daemon"],
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

    def lines(self) -> list[dict[str, object]]:
        path = self.outputs / "run" / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def drain(self) -> None:
        while list(self.directory.glob("*.ring")):
            time.sleep(POLL_S)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    directory = Path("/dev/shm") / f"ts-bench-{secrets.token_hex(3)}"  # noqa: S108 - the real thing
    directory.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(prefix="daemon-bench-") as outputs:
        served = Site(directory, Path(outputs))
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
    return {"idle CPU, no run, %": alone, "idle CPU, 8 silent ranks, %": attached}


def share_of_cpu(served: Site, seconds: int) -> float:
    before, start = served.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return 100 * (served.cpu_seconds() - before) / (time.monotonic() - start)


def rate(seconds: int) -> dict[str, float]:
    with site() as served:
        before = served.cpu_seconds()
        flood = served.flood(RANKS, str(seconds), "1.0")
        drops = int(flood.communicate()[0])
        served.drain()
        used = served.cpu_seconds() - before
        lines = served.lines()
    return {
        "8 ranks, steps published": seconds,
        "8 ranks, steps written": len(lines),
        "8 ranks, drops": drops,
        "8 ranks, steps shed": sum(line["shed"] is not None for line in lines),
        "8 ranks, steps with all ranks": sum(len(line["ranks"]) == RANKS for line in lines),
        "8 ranks, CPU, % of a core": 100 * used / seconds,
    }


if __name__ == "__main__":
    main()
