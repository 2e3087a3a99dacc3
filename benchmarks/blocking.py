"""A trainer's step time whatever becomes of the daemon, against bare training.

    python benchmarks/blocking.py [--rounds 24] [--steps 15] [--every 10] [--json FILE]

One trainer process for each condition; they take turns in blocks of steps, in a new random order
each round, so that the machine's moods meet all of them. `bare` trains without trackside, twice:
the second is the null control, and says how far apart equal things are here. `absent`: no daemon,
the ring fills up. `serving`: a daemon works. `stopped`: it stands still (SIGSTOP). `overloaded`:
it also serves eight ranks that publish without pause. `restarting`: it is killed and started
again and again. Daemons of other conditions stand still meanwhile. The ratio of medians is taken
within each round, and its median and quartiles over the rounds are shown. The 99th percentile is
over all steps, sampled ones included; its ratio to that of bare training comes with a bootstrap
interval of 90 % over the rounds, drawn for both together.
"""

import argparse
import contextlib
import json
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
from typing import Self

import numpy as np
import psutil

CONDITIONS = ("bare", "bare again", "absent", "serving", "stopped", "overloaded", "restarting")
HERE = Path(__file__).parent
FLOOD = HERE.parent / "tests" / "support" / "flood.py"
RING_BYTES = 8 << 20
RESTART_S = 1.5
NUM_DRAWS = 1000  # of the bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=15, help="steps of a block")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    blocks: dict[str, list[list[float]]] = {name: [] for name in CONDITIONS}
    with contextlib.ExitStack() as stack:
        sites = {name: stack.enter_context(Site(name, arguments.every)) for name in CONDITIONS}
        for site in sites.values():
            site.train(arguments.steps)  # warm up
        for _ in range(arguments.rounds):
            for name in random.sample(CONDITIONS, len(CONDITIONS)):
                blocks[name].append(sites[name].train(arguments.steps))
    results = summary(blocks)
    show(results, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


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
        if self.name in {"serving", "stopped", "overloaded", "restarting"}:
            self.start_daemon()
        if self.name == "overloaded":
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


def summary(blocks: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Compare each block with the bare one of its round: what slows both cancels out."""
    bare = [float(np.median(block)) for block in blocks["bare"]]
    draws = np.random.default_rng(0).integers(0, len(bare), (NUM_DRAWS, len(bare)))
    bare_tail = float(np.percentile(np.concatenate(blocks["bare"]), 99))
    results = {}
    for name, rounds in blocks.items():
        ratios = [np.median(block) / base for block, base in zip(rounds, bare, strict=True)]
        everything = np.concatenate(rounds)
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        tails = [tail(rounds, draw) / tail(blocks["bare"], draw) for draw in draws]
        tail_low, tail_high = np.percentile(tails, (5, 95))
        results[name] = {
            "steps": len(everything),
            "median_ms": float(np.median(everything)),
            "p99_ms": float(np.percentile(everything, 99)),
            "median_ratio": float(middle),
            "median_ratio_low": float(low),
            "median_ratio_high": float(high),
            "p99_ratio": float(np.percentile(everything, 99)) / bare_tail,
            "p99_ratio_low": float(tail_low),
            "p99_ratio_high": float(tail_high),
        }
    return results


def tail(rounds: Sequence[Sequence[float]], draw: Sequence[int]) -> float:
    """Return the 99th percentile over the rounds that were drawn."""
    return float(np.percentile(np.concatenate([rounds[number] for number in draw]), 99))


def show(results: Mapping[str, Mapping[str, float]], arguments: argparse.Namespace) -> None:
    print(f"{arguments.rounds} rounds of {arguments.steps} steps, every={arguments.every}\n")
    print(
        "| daemon | median ms | p99 ms | median / bare | its quartiles | p99 / bare "
        "| its interval |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, entry in results.items():
        print(
            f"| {name} | {entry['median_ms']:.2f} | {entry['p99_ms']:.2f} "
            f"| {entry['median_ratio']:.3f} "
            f"| {entry['median_ratio_low']:.3f} to {entry['median_ratio_high']:.3f} "
            f"| {entry['p99_ratio']:.3f} "
            f"| {entry['p99_ratio_low']:.3f} to {entry['p99_ratio_high']:.3f} |"
        )


if __name__ == "__main__":
    main()
