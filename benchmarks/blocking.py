"""A trainer's step time whatever becomes of the daemon, against bare training.

    python benchmarks/blocking.py [--rounds 48] [--steps 15] [--every 10]

One trainer process for each condition; they take turns in blocks of steps, in a new random order
each round, so that the machine's moods meet all of them. `bare` trains without trackside, twice:
the second is the null control, and says how far apart equal things are here. `absent`: no daemon,
the ring fills up. `serving`: a daemon works. `stopped`: it stands still (SIGSTOP). `overloaded`:
it also serves eight ranks that publish without pause, which take memory bandwidth from anything
that runs; its own control, `bare beside it`, trains without trackside beside the same load.
`restarting`: it is killed and started again and again. Daemons of other conditions stand still
meanwhile. The ratio of medians is taken within each round; its median over the rounds comes with
a bootstrap interval. A condition is within noise where its interval reaches down to that of its
control. The 99th percentile is over all steps, sampled ones included; its ratio to that of bare
training comes with a bootstrap interval of 90 % over the rounds, drawn for both together.
"""

import argparse
import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
from figures import Figure, Spread, bootstrap, ratios
from frame import Benchmark, Findings
from tables import Column, Limit, Table

BARE, CONTROL, LOADED = "bare", "bare again", "bare beside it"
OVERLOADED = "overloaded"
CONDITIONS = (
    *(BARE, CONTROL, "absent", "serving", "stopped", "restarting"),
    *(OVERLOADED, LOADED),
)
HERE = Path(__file__).parent
FLOOD = HERE.parent / "tests" / "support" / "flood.py"
RING_BYTES = 8 << 20
RESTART_S = 1.5
NUM_DRAWS = 1000  # of the bootstrap


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=48)
    parser.add_argument("--steps", type=int, default=15, help="steps of a block")
    parser.add_argument("--every", type=int, default=10)


def measure(arguments: argparse.Namespace) -> Findings:
    blocks: dict[str, list[list[float]]] = {name: [] for name in CONDITIONS}
    with contextlib.ExitStack() as stack:
        sites = {name: stack.enter_context(Site(name, arguments.every)) for name in CONDITIONS}
        for site in sites.values():
            site.train(arguments.steps)  # warm up
        for _ in range(arguments.rounds):
            for name in random.sample(CONDITIONS, len(CONDITIONS)):
                blocks[name].append(sites[name].train(arguments.steps))
    rows = {name: summary(blocks, name) for name in CONDITIONS}
    return Findings({"steps": steps_table(rows)}, limits(rows))


class Site:
    """A trainer and its daemon in a node-local directory of their own."""

    def __init__(self, name: str, every: int) -> None:
        self.name = name
        self.directory = Path("/dev/shm") / f"ts-bench-{secrets.token_hex(3)}"  # noqa: S108 - the real thing
        self.outputs = Path(tempfile.mkdtemp(prefix="blocking-"))
        self.environ = os.environ | {
            "TRACKSIDE_SHM_DIR": str(self.directory),
            "OMP_NUM_THREADS": "1",
        }
        self.every = every
        self.daemon: subprocess.Popen[bytes] | None = None
        self.flood: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o700)
        if self.name not in {BARE, CONTROL, "absent"}:
            self.start_daemon()
        if self.name in {OVERLOADED, LOADED}:
            command = [sys.executable, FLOOD, self.directory, self.outputs / "flood", "8"]
            self.flood = subprocess.Popen(command, env=self.environ)
        every = "0" if self.name.startswith("bare") else str(self.every)
        self.trainer = subprocess.Popen(
            [sys.executable, HERE / "blocking_trainer.py", every, self.outputs / "run"],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.trainer.stdout.readline()  # it is ready
        self.hold(signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        self.hold(signal.SIGCONT)
        for process in (self.trainer, self.flood, self.daemon):
            if process is not None:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory)
        shutil.rmtree(self.outputs)

    def start_daemon(self) -> None:
        with (self.outputs / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "tracksided", "daemon", "--low-priority"],
                env=self.environ,
                stdout=log,
                stderr=log,
            )

    def train(self, steps: int) -> list[float]:
        """Run a block of steps under the condition; return milliseconds of each."""
        with self.condition():
            self.trainer.stdin.write(f"{steps}\n")
            self.trainer.stdin.flush()
            return [float(word) for word in self.trainer.stdout.readline().split()]

    @contextlib.contextmanager
    def condition(self) -> Iterator[None]:
        if self.name == "stopped":
            yield
            return
        self.hold(signal.SIGCONT)
        over = threading.Event()
        breaker = threading.Thread(target=self.break_again_and_again, args=(over,))
        if self.name == "restarting":
            breaker.start()
        try:
            yield
        finally:
            over.set()
            if self.name == "restarting":
                breaker.join()
            self.hold(signal.SIGSTOP)

    def break_again_and_again(self, over: threading.Event) -> None:
        while not over.wait(RESTART_S):
            self.daemon.kill()
            self.daemon.wait()
            self.start_daemon()

    def hold(self, number: int) -> None:
        """Stop or continue the daemon, its workers and the flood."""
        for process in (self.flood, self.daemon):
            if process is None:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(process.pid)
                for member in (family, *family.children(recursive=True)):
                    member.send_signal(number)


def summary(blocks: Mapping[str, Sequence[Sequence[float]]], name: str) -> dict[str, Figure]:
    """Compare each block with the bare one of its round: what slows both cancels out."""
    medians = {key: [float(np.median(block)) for block in blocks[key]] for key in (name, BARE)}
    everything = np.concatenate(blocks[name])
    p99 = float(np.percentile(everything, 99))
    num_rounds = len(blocks[BARE])
    draws = np.random.default_rng(0).integers(0, num_rounds, (NUM_DRAWS, num_rounds))
    tails = [tail(blocks[name], draw) / tail(blocks[BARE], draw) for draw in draws]
    return {
        "daemon": name,
        "median_ms": float(np.median(everything)),
        "p99_ms": p99,
        "median_ratio": bootstrap(ratios(medians[name], medians[BARE])),
        "p99_ratio": Spread(
            p99 / float(np.percentile(np.concatenate(blocks[BARE]), 99)),
            *map(float, np.percentile(tails, (5, 95))),
        ),
    }


def tail(rounds: Sequence[Sequence[float]], draw: Sequence[int]) -> float:
    """Return the 99th percentile over the rounds that were drawn."""
    return float(np.percentile(np.concatenate([rounds[number] for number in draw]), 99))


def steps_table(rows: Mapping[str, Mapping[str, Figure]]) -> Table:
    columns = (
        Column("daemon", "daemon"),
        Column("median_ms", "median, ms", 2),
        Column("p99_ms", "p99, ms", 2),
        Column("median_ratio", "median / bare [95 %]", 3),
        Column("p99_ratio", "p99 / bare [90 %]", 3),
    )
    return Table(columns, list(rows.values()))


def limits(rows: Mapping[str, Mapping[str, Any]]) -> list[Limit]:
    """Hold every condition against its control: do their intervals overlap?"""
    found = []
    for name in ("absent", "serving", "stopped", "restarting", OVERLOADED):
        control = LOADED if name == OVERLOADED else CONTROL
        what = (
            f"step time against bare, daemon {name}: lower end of its interval "
            f"(bound: upper end of that of {control!r})"
        )
        noise, reached = rows[control]["median_ratio"].high, rows[name]["median_ratio"].low
        found.append(Limit(what, "<=", noise, {"": reached}))
    return found


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"rounds": 4, "steps": 10},
    packages=("torch", "numpy"),
)

if __name__ == "__main__":
    BENCHMARK.main()
