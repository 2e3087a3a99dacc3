"""What a training feels while its checkpoints are averaged beside it.

    python benchmarks/averaging_beside.py [--megabytes 300] [--rounds 3] [--threads N ...]

A process computes steps and saves checkpoints with torch.save, as a trainer does, once with a
directory that nobody watches and once with the daemon's averaging service on it, in turn. The
table shows medians over rounds of a step's and a save's seconds, and the ratios within rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from figures import QUARTILES, quartiles, ratios
from frame import Benchmark, Findings
from tables import Column, Table

from tracksided.checkpoints.service import CheckpointService

POLL_S = 0.1
TRAINER = """
import json, sys, time, torch; from pathlib import Path
directory, megabytes, num_saves, steps, threads = Path(sys.argv[1]), *map(int, sys.argv[2:])
torch.set_num_threads(threads)
a = torch.randn(384, 384)
state = {f"layer.{n}": torch.randn(1 << 20) for n in range(megabytes * 10**6 // (4 << 20))}
step_seconds, save_seconds = [], []
for save in range(1, num_saves + 1):
    for _ in range(steps):
        started = time.perf_counter()
        for _ in range(20):
            a = torch.tanh(a @ a)
        step_seconds.append(time.perf_counter() - started)
    for tensor in state.values():
        tensor += 1
    started = time.perf_counter()
    torch.save({"model": state}, directory / "half-written")
    (directory / "half-written").rename(directory / f"step_{save}.pt")
    save_seconds.append(time.perf_counter() - started)
print(json.dumps({"step": step_seconds, "save": save_seconds}))
"""
KEYS = {"step": "a step", "save": "a save"}
Times = Mapping[str, Sequence[float]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--megabytes", type=int, default=300, help="of a checkpoint")
    parser.add_argument("--saves", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60, help="between two saves")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({max(1, len(os.sched_getaffinity(0)) - 1), len(os.sched_getaffinity(0))}),
        help="of the trainer; by default all cores, and all but one",
    )
    parser.add_argument("--rounds", type=int, default=3)


def measure(arguments: argparse.Namespace) -> Findings:
    rows = []
    for threads in arguments.threads:
        rounds, averages = run_rounds(arguments, threads)
        for key, what in KEYS.items():
            without, beside = ([times[key] for times in rounds[mode]] for mode in (False, True))
            rows.append(
                {
                    "threads": threads,
                    "what": what,
                    "without": statistics.median(without),
                    "with": statistics.median(beside),
                    "ratio": quartiles(ratios(beside, without)),
                    "averages": averages,
                }
            )
    columns = (
        Column("threads", "threads of the trainer"),
        Column("what", "what"),
        Column("without", "without, s", 4),
        Column("with", "with averaging, s", 4),
        Column("ratio", "with / without", 3),
        Column("averages", "averages made"),
    )
    return Findings({"trainer": Table(columns, rows, QUARTILES)})


def run_rounds(
    arguments: argparse.Namespace, threads: int
) -> tuple[dict[bool, list[dict[str, float]]], int]:
    """Return the median times of every round, by whether somebody averaged, and the averages."""
    rounds: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    averages = 0
    for number in range(arguments.rounds):
        modes = [False, True] if number % 2 == 0 else [True, False]
        for is_watched in modes:
            times, made = run(arguments, threads, is_watched=is_watched)
            averages += made
            rounds[is_watched].append({key: statistics.median(times[key]) for key in KEYS})
    if not averages:
        sys.exit("nothing was averaged while the trainer ran: give it more --saves or --steps")
    return rounds, averages


def run(arguments: argparse.Namespace, threads: int, *, is_watched: bool) -> tuple[Times, int]:
    """Train once; return the trainer's times and the number of averages made meanwhile."""
    directory = Path(tempfile.mkdtemp(prefix="averaging-beside-"))
    service = CheckpointService(last=3, min_checkpoints=2, poll_seconds=0.2)
    if is_watched:
        service.watch(directory, run=None)
    words = [arguments.megabytes, arguments.saves, arguments.steps, threads]
    command = [sys.executable, "-c", TRAINER, str(directory), *map(str, words)]
    averages = 0
    try:
        with tempfile.TemporaryFile() as output:
            trainer = subprocess.Popen(command, stdout=output)
            while trainer.poll() is None:
                for event in service.poll(time.monotonic()):
                    if event.error is not None:
                        sys.exit(f"averaging failed: {event.error}")
                    averages += 1
                time.sleep(POLL_S)
            if trainer.returncode:
                sys.exit(f"the trainer failed with status {trainer.returncode}")
            output.seek(0)
            times: Times = json.loads(output.read())
            return times, averages
    finally:
        service.close()
        shutil.rmtree(directory)


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"megabytes": 50, "rounds": 1, "saves": 4, "steps": 40},
    packages=("torch", "numpy"),
)

if __name__ == "__main__":
    BENCHMARK.main()
