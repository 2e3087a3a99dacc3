"""Memory of the daemon and its children over a long time: many steps of runs that come and go.

    python benchmarks/soak.py [--steps 20000] [--runs 4] [--steps-of-run 1000] [--json FILE]

So many runs publish at once, as fast as their rings take it; each ends after its steps, and
another begins. One in four has pictures of its maps and an overview. Memory is that of daemon and
children: resident (RSS, shared pages counted whole), proportional (PSS: shared by their users) and
private (USS). Rings are shared memory: what is mapped of them is in RSS and PSS.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from daemon import Site, site

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fake_trainer import FakeRank, make_hello

from trackside.wire.ring import PublishResult

NUM_LOOKS = 10
PAUSE_S = 0.002  # while all rings are full
RING_BYTES = 1 << 17  # some 60 steps: the daemon sets the pace
MAX_RINGS = 2  # for each run that publishes: the next one begins while the last is written
PICTURES = ("heatmap", "statistics", "entropy")
NO_PICTURES = ("statistics",)
EVERY_NTH_HAS_PICTURES = 4


@dataclass(frozen=True)
class Memory:
    """Megabytes."""

    rss: float
    pss: float
    uss: float


@dataclass(frozen=True)
class Look:
    """One row of the table."""

    steps: int
    seconds: float
    daemon: Memory
    children: Memory
    threads: int
    descriptors: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps-of-run", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print("| steps | daemon: RSS, PSS, private MB | children: the same | threads | files |")
    print("|---|---|---|---|---|", flush=True)
    with site() as served:
        looks, num_runs = soak(served, arguments.steps, arguments.runs, arguments.steps_of_run)
        served.drain()
        written = sum(
            len(path.read_text().splitlines()) for path in served.outputs.glob("*/history.jsonl")
        )
    print(f"\n{arguments.steps} steps of {num_runs} runs published, {written} written")
    if arguments.json:
        rows = json.dumps([asdict(entry) for entry in looks], indent=2)
        arguments.json.write_text(rows + "\n", encoding="utf-8")


def soak(served: Site, steps: int, runs: int, steps_of_run: int) -> tuple[list[Look], int]:
    """Publish so many steps; look at the daemon's memory ten times on the way."""
    ranks: list[tuple[FakeRank, int]] = []
    begun = published = 0
    looks: list[Look] = []
    start = time.monotonic()
    while published < steps:
        while len(ranks) < runs and num_rings(served) < MAX_RINGS * runs:
            ranks.append((begin(served, begun), 0))
            begun += 1
        before = published
        for place, (rank, step) in enumerate(ranks):
            if published < steps and rank.publish(step + 1) is PublishResult.PUBLISHED:
                ranks[place] = (rank, step + 1)
                published += 1
                if published % (steps // NUM_LOOKS) == 0:
                    looks.append(look(served, published, time.monotonic() - start))
                    show(looks[-1])
        over = [entry for entry in ranks if entry[1] >= steps_of_run]
        ranks = [entry for entry in ranks if entry[1] < steps_of_run]
        for rank, step in over:
            rank.close(steps=step)
        if published == before:
            time.sleep(PAUSE_S)
    for rank, step in ranks:
        rank.close(steps=step)
    return looks, begun


def num_rings(served: Site) -> int:
    """Count runs that publish, and those that are over and not written yet."""
    return len(list(served.directory.glob("*.ring")))


def begin(served: Site, number: int) -> FakeRank:
    name = f"run-{number}"
    has_pictures = number % EVERY_NTH_HAS_PICTURES == 0
    hello = make_hello(
        served.outputs / name, run=name, visualize=PICTURES if has_pictures else NO_PICTURES
    )
    return FakeRank(served.directory, hello, nonce=f"n{number}", ring_bytes=RING_BYTES)


def look(served: Site, steps: int, seconds: float) -> Look:
    daemon, *children = served.family()
    return Look(
        steps=steps,
        seconds=seconds,
        daemon=memory([daemon]),
        children=memory(children),
        threads=daemon.num_threads(),
        descriptors=daemon.num_fds(),
    )


def memory(processes: list[psutil.Process]) -> Memory:
    found = []
    for process in processes:
        try:
            found.append(process.memory_full_info())
        except psutil.NoSuchProcess:
            continue  # a worker that is replaced
    return Memory(
        rss=sum(entry.rss for entry in found) / 1e6,
        pss=sum(entry.pss for entry in found) / 1e6,
        uss=sum(entry.uss for entry in found) / 1e6,
    )


def show(entry: Look) -> None:
    cells = [
        f"{part.rss:.1f}, {part.pss:.1f}, {part.uss:.1f}" for part in (entry.daemon, entry.children)
    ]
    print(
        f"| {entry.steps:,} | {cells[0]} | {cells[1]} | {entry.threads} | {entry.descriptors} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
