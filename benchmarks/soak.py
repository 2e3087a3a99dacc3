"""Memory of the daemon and its children over a long time: many steps of runs that come and go.

    python benchmarks/soak.py [--steps 20000] [--runs 4] [--steps-of-run 1000]

So many runs publish at once, as fast as their rings take it; each ends after its steps, and
another begins. One in four has pictures of its maps and an overview. Memory is that of daemon and
children: resident (RSS, shared pages counted whole), proportional (PSS: shared by their users) and
private (USS). Rings are shared memory: what is mapped of them is in RSS and PSS.
"""

import argparse
import sys
import time
from pathlib import Path

import psutil
from daemon import Site, site
from figures import Figure
from frame import Benchmark, Findings
from tables import Column, Limit, Table

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
MEMORY = {"resident": "rss", "proportional": "pss", "private": "uss"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps-of-run", type=int, default=1000)


def measure(arguments: argparse.Namespace) -> Findings:
    with site() as served:
        looks, num_runs = soak(served, arguments.steps, arguments.runs, arguments.steps_of_run)
        served.drain()
        written = sum(
            len(path.read_text().splitlines()) for path in served.outputs.glob("*/history.jsonl")
        )
    columns = (
        Column("steps", "steps", 0),
        Column("seconds", "seconds", 0),
        *(
            Column(f"{who}_{kind}", f"{who}, {kind} MB", 1)
            for who in ("daemon", "children")
            for kind in MEMORY
        ),
        Column("threads", "threads"),
        Column("files", "files"),
    )
    totals = {"published": arguments.steps, "runs": num_runs, "written": written}
    return Findings(
        {
            "memory": Table(columns, looks),
            "totals": Table([Column(name, name, 0) for name in totals], [totals]),
        },
        [Limit("steps published and not written", "<=", 0, {"": arguments.steps - written})],
    )


def soak(
    served: Site, steps: int, runs: int, steps_of_run: int
) -> tuple[list[dict[str, Figure]], int]:
    """Publish so many steps; look at the daemon's memory ten times on the way."""
    ranks: list[tuple[FakeRank, int]] = []
    begun = published = 0
    looks: list[dict[str, Figure]] = []
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
        over = [entry for entry in ranks if entry[1] >= steps_of_run]
        ranks = [entry for entry in ranks if entry[1] < steps_of_run]
        for rank, step in over:
            rank.close(steps=step)
        if published == before:
            if served.daemon.poll() is not None:
                status = served.daemon.returncode
                sys.exit(f"the daemon ended with status {status} after step {published}")
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


def look(served: Site, steps: int, seconds: float) -> dict[str, Figure]:
    daemon, *children = served.family()
    return {
        "steps": steps,
        "seconds": seconds,
        **memory("daemon", [daemon]),
        **memory("children", children),
        "threads": daemon.num_threads(),
        "files": daemon.num_fds(),
    }


def memory(who: str, processes: list[psutil.Process]) -> dict[str, float]:
    """Add up the megabytes of processes, of each kind of memory."""
    found = []
    for process in processes:
        try:
            found.append(process.memory_full_info())
        except psutil.NoSuchProcess:
            continue  # a worker that is replaced
    return {
        f"{who}_{kind}": sum(getattr(entry, field) for entry in found) / 1e6
        for kind, field in MEMORY.items()
    }


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"steps": 200, "steps_of_run": 25},
    packages=("numpy", "pyzmq"),
)

if __name__ == "__main__":
    BENCHMARK.main()
