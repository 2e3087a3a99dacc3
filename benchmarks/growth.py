"""How cost grows with the work: layers, sequence length, ranks, runs, and checkpoints to average.

    python benchmarks/growth.py [--blocks 5] [--groups 4] [--rounds 3] [--sweeps NAME ...]

Small sweeps around one base: a GPT of 4 layers and width 128, 128 tokens, one rank of one run. Real
trainers sample every fourth step and a real daemon, with a picture of every map and nothing left
out, serves them. A trainer's cost is the CPU time of its thread that a sampled step adds to plain
ones; a daemon's is the CPU time of all its processes between two moments at which it has written
everything, divided by the steps written: one for all ranks of a run. Averages are made as in
`averaging.py`, without the start of the process. Ratios are to the base of the same sweep.
"""

import argparse
import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import averaging
from daemon import POLL_S, Site, site
from figures import BOOTSTRAP, QUARTILES, Figure, Spread, bootstrap, quartiles
from frame import Benchmark, Findings
from tables import Column, Table

HERE = Path(__file__).parent
NOTHING_SHED = "[workers]\nshed_pictures_at = 1000000\nshed_statistics_at = 1000000\n"
DEADLINE_S = 120.0  # for one block to be written
RATIO_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What trainers and daemon do; the defaults are the base."""

    layers: int = 4
    length: int = 128
    ranks: int = 1
    runs: int = 1


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What is averaged; the defaults are the base."""

    megabytes: int = 128
    count: int = 5


WORK_SWEEPS = {
    "layers": (1, 2, 4, 8, 16),
    "length": (64, 128, 256, 512, 1024),
    "ranks": (1, 2, 4, 8),
    "runs": (1, 2, 4, 8),
}
CHECKPOINT_SWEEPS = {"megabytes": (32, 64, 128, 256, 512), "count": (2, 5, 10, 20)}
TITLES = {
    "layers": "layers",
    "length": "tokens of a sequence",
    "ranks": "ranks of a run",
    "runs": "runs on a node",
    "megabytes": f"MB of each of {Checkpoints().count} checkpoints",
    "count": f"checkpoints of {Checkpoints().megabytes} MB",
}
WORK_COLUMNS = (
    Column("trainer_ms", "a sample adds to the trainer, ms of CPU", 2),
    Column("daemon_ms", "daemon for a sampled step, ms of CPU", 1),
)
INTERVALS = f"trainer: {BOOTSTRAP}; daemon: quartiles of the blocks"
AVERAGE_COLUMNS = (
    Column("seconds", "seconds of an average", 3),
    Column("peak_mb", "peak resident memory, MB", 1),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--blocks", type=int, default=5, help="of samples, for each point")
    parser.add_argument("--groups", type=int, default=4, help="samples of a block")
    parser.add_argument("--rounds", type=int, default=3, help="of averages")
    parser.add_argument("--points", type=int, default=6, help="of a sweep, nearest to the base")
    parser.add_argument("--sweeps", nargs="+", choices=TITLES, default=list(TITLES))


def measure(arguments: argparse.Namespace) -> Findings:
    return Findings({name: sweep(name, arguments) for name in arguments.sweeps})


def sweep(name: str, arguments: argparse.Namespace) -> Table:
    """Change one thing from point to point."""
    if name in WORK_SWEEPS:
        base, values = getattr(Work(), name), WORK_SWEEPS[name]
        costs = {
            value: work_costs(
                dataclasses.replace(Work(), **{name: value}), arguments.blocks, arguments.groups
            )
            for value in nearest(values, base, arguments.points)
        }
        return with_ratios(name, costs, base, WORK_COLUMNS, INTERVALS)
    base, values = getattr(Checkpoints(), name), CHECKPOINT_SWEEPS[name]
    costs = {
        value: average_costs(dataclasses.replace(Checkpoints(), **{name: value}), arguments.rounds)
        for value in nearest(values, base, arguments.points)
    }
    return with_ratios(name, costs, base, AVERAGE_COLUMNS, QUARTILES)


def nearest(values: Sequence[int], base: int, count: int) -> list[int]:
    """Choose the points of a sweep that are nearest to the base, by ratio; in their order."""
    return sorted(sorted(values, key=lambda value: max(value / base, base / value))[:count])


def with_ratios(
    name: str,
    costs: dict[int, dict[str, Spread]],
    base: int,
    columns: Sequence[Column],
    interval: str,
) -> Table:
    """Put the ratio to the base behind each cost."""
    shown = [Column(name, TITLES[name], 0)]
    for column in columns:
        shown += [column, Column(ratio_key(column.key), "/ base", RATIO_DIGITS)]
    rows = []
    for value, row in costs.items():
        cells: dict[str, Figure] = {name: value, **row}
        for key, cost in row.items():
            cells[ratio_key(key)] = cost.median / costs[base][key].median
        rows.append(cells)
    return Table(shown, rows, interval)


def ratio_key(key: str) -> str:
    return f"{key}_ratio"


def work_costs(work: Work, blocks: int, groups: int) -> dict[str, Spread]:
    """Let trainers of a kind work beside a daemon of their own."""
    added: list[float] = []
    daemon_ms: list[float] = []
    with site(NOTHING_SHED) as served, trainers(served, work) as processes:
        take(served, processes, work, groups, written=groups)  # warm up: imports, first pictures
        for block in range(blocks):
            before = served.cpu_seconds()
            added += take(served, processes, work, groups, written=(block + 2) * groups)
            used = served.cpu_seconds() - before
            daemon_ms.append(used / (groups * work.runs) * 1e3)
    return {"trainer_ms": bootstrap(added), "daemon_ms": quartiles(daemon_ms)}


@contextlib.contextmanager
def trainers(served: Site, work: Work) -> Iterator[list["subprocess.Popen[str]"]]:
    """Start all ranks of all runs; they are ready."""
    processes = []
    for run in range(work.runs):
        save_dir = served.outputs / f"run{run}"
        words = [work.layers, work.length, f"run{run}", save_dir]
        for rank in range(work.ranks):
            place = {"RANK": rank, "LOCAL_RANK": rank}
            place |= {"WORLD_SIZE": work.ranks, "LOCAL_WORLD_SIZE": work.ranks}
            process = subprocess.Popen(
                [sys.executable, HERE / "growth_trainer.py", *map(str, words)],
                env=served.environ | {name: str(value) for name, value in place.items()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
    try:
        for process in processes:
            process.stdout.readline()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def take(
    served: Site,
    processes: Sequence["subprocess.Popen[str]"],
    work: Work,
    groups: int,
    written: int,
) -> list[float]:
    """Let every rank take samples, and wait until so many steps of each run are written."""
    for process in processes:
        process.stdin.write(f"{groups}\n")
        process.stdin.flush()
    added = [float(word) for process in processes for word in process.stdout.readline().split()]
    if len(added) != groups * len(processes):
        sys.exit(f"a trainer failed: {len(added)} answers of {groups * len(processes)}")
    deadline = time.monotonic() + DEADLINE_S
    for run in range(work.runs):
        while len(served.lines(f"run{run}")) < written:
            if time.monotonic() > deadline:
                sys.exit(f"{work}: {served.lines(f'run{run}')[-1:]} is the last of {written} steps")
            time.sleep(POLL_S)
    return added


def average_costs(checkpoints: Checkpoints, rounds: int) -> dict[str, Spread]:
    """Average checkpoints some times, each in a process of its own."""
    seconds, starts, peaks = [], [], []
    with tempfile.TemporaryDirectory(prefix="growth-") as place:
        directory = Path(place)
        gigabytes = checkpoints.megabytes / 1e3
        averaging.make_checkpoints(directory, "pt", gigabytes, checkpoints.count)
        start = [sys.executable, "-c", averaging.TRACKSIDE]
        command = [*start, place, str(checkpoints.count)]
        for _ in range(rounds + 1):  # the first warms up
            starts.append(averaging.run(start, os.environ)[0])
            elapsed, megabytes = averaging.run(command, os.environ)
            seconds.append(elapsed)
            peaks.append(megabytes)
    start_seconds = statistics.median(starts[1:])
    return {
        "seconds": quartiles([elapsed - start_seconds for elapsed in seconds[1:]]),
        "peak_mb": quartiles(peaks[1:]),
    }


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"blocks": 1, "groups": 2, "rounds": 1, "points": 2},
    packages=("torch", "numpy", "matplotlib"),
)

if __name__ == "__main__":
    BENCHMARK.main()
