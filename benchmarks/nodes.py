"""Several nodes: a step's time, the daemons' CPU, Prometheus' answers, averaging under torchrun.

    python benchmarks/nodes.py [--nodes 1 2 3] [--rounds 10] [--steps 20] [--every 10]
        [--averages 3] [--gigabytes 0.25]

Nodes are network namespaces of this machine, cabled to one switch; each has a daemon and a shared
memory of its own for each training. It needs root. What is shared with no real cluster: cores,
memory bandwidth and disk are those of one machine, and the network is its memory.

`steps`: DDP over gloo, one rank a node, started by torchrun; one training with and one without
trackside for each number of nodes. All wait, and take turns in blocks of steps, in a new random
order each round. Ratios are taken within rounds. After a block the daemons may finish: their CPU
time is that between two moments at which all is written, divided by the sampled steps. Then
Prometheus' questions are asked from the first node. `averages`: one rank on each node against
`trackside average`, in turns; the bytes must be the same. A rank's own start and imports count in
"seconds", not in "of which averaging".
"""

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import averaging
from figures import BOOTSTRAP, QUARTILES, Figure, bootstrap, quartiles, ratios
from frame import Benchmark, Findings
from namespaces import Node, can_make_nodes, joined_nodes
from nodes_averaging import FIRST_PORT, Average, average
from nodes_job import Job, Scrape, StepTime
from tables import Column, Table

NUM_SCRAPES = 5
STEP_COLUMNS = (
    Column("nodes", "nodes"),
    Column("bare", "a step, bare, ms", 2),
    Column("watched", "with trackside, ms", 2),
    Column("ratio", "with / bare", 3),
    Column("cpu_ratio", "with / bare, CPU of rank 0", 3),
    Column("to_one", "bare / bare of the first row", 2),
)
DAEMON_COLUMNS = (
    Column("where", "daemon of"),
    Column("cpu_ms", "a sampled step, ms of CPU", 1),
    Column("to_one", "/ first row", 2),
    Column("num_bytes", "an answer to Prometheus, bytes", 0),
    Column("num_series", "series in it", 0),
    Column("scrape_ms", "its time, ms", 1),
)
AVERAGE_COLUMNS = (
    Column("who", "who"),
    Column("seconds", "seconds", 2),
    Column("working", "of which averaging", 2),
    Column("to_one", "averaging / one process", 2),
)
ONE_PROCESS = "`trackside average`, one process"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", nargs="+", type=int, default=[1, 2, 3], help="how many")
    parser.add_argument("--rounds", type=int, default=10, help="of blocks of steps")
    parser.add_argument("--steps", type=int, default=20, help="of a block; multiple of --every")
    parser.add_argument("--every", type=int, default=10, help="which steps are sampled")
    parser.add_argument("--averages", type=int, default=3, help="rounds of averages")
    parser.add_argument("--gigabytes", type=float, default=0.25, help="of each of 5 checkpoints")


def measure(arguments: argparse.Namespace) -> Findings:
    if not can_make_nodes():
        sys.exit("nodes.py makes network namespaces: run it as root, with iproute2 installed")
    if arguments.steps % arguments.every:
        sys.exit(f"--steps {arguments.steps} is no multiple of --every {arguments.every}")
    with joined_nodes(max(arguments.nodes)) as nodes:
        tables = trainings(nodes, arguments)
        tables["averages"] = averages(nodes, arguments)
    return Findings(tables)


def trainings(nodes: Sequence[Node], arguments: argparse.Namespace) -> dict[str, Table]:
    """Let trainings of all sizes take turns, each with and without trackside."""
    keys = [(count, every) for count in arguments.nodes for every in (0, arguments.every)]
    taken: dict[tuple[int, int], list[StepTime]] = {key: [] for key in keys}
    cpu_ms: dict[int, list[list[float]]] = {count: [] for count in arguments.nodes}
    num_samples = arguments.steps // arguments.every
    with tempfile.TemporaryDirectory(prefix="nodes-") as place, contextlib.ExitStack() as stack:
        jobs = {
            key: stack.enter_context(Job(number, nodes[: key[0]], key[1], Path(place)))
            for number, key in enumerate(keys)
        }
        for job in jobs.values():
            job.wait()
        for done in range(arguments.rounds + 1):  # the first warms up
            for key in random.sample(keys, len(keys)):
                before = jobs[key].cpu_ms()
                found = jobs[key].train(arguments.steps)
                jobs[key].settle((done + 1) * num_samples)
                if done == 0:
                    continue
                taken[key].append(found)
                if key[1]:
                    used = zip(before, jobs[key].cpu_ms(), strict=True)
                    cpu_ms[key[0]].append([(after - was) / num_samples for was, after in used])
        watched = {key[0]: job for key, job in jobs.items() if key[1]}
        scrapes = {count: list(job.scrapes(NUM_SCRAPES)) for count, job in watched.items()}
        for job in jobs.values():  # all at once; each is waited for when the stack is left
            job.end()
    bare = {count: taken[count, 0] for count in arguments.nodes}
    beside = {count: taken[count, arguments.every] for count in arguments.nodes}
    return {"steps": steps_table(bare, beside), "daemons": daemons_table(cpu_ms, scrapes)}


def steps_table(
    bare: Mapping[int, Sequence[StepTime]], watched: Mapping[int, Sequence[StepTime]]
) -> Table:
    """Compare mean steps of blocks, by the number of nodes, round by round."""
    rows: list[dict[str, Figure]] = []
    first = wall(next(iter(bare.values())))
    for count, times in bare.items():
        beside = watched[count]
        rows.append(
            {
                "nodes": count,
                "bare": quartiles(wall(times)),
                "watched": quartiles(wall(beside)),
                "ratio": bootstrap(ratios(wall(beside), wall(times))),
                "cpu_ratio": bootstrap(ratios(cpu(beside), cpu(times))),
                "to_one": bootstrap(ratios(wall(times), first)),
            }
        )
    return Table(STEP_COLUMNS, rows, f"{QUARTILES}; of ratios, {BOOTSTRAP}")


def wall(times: Sequence[StepTime]) -> list[float]:
    return [time.wall_ms for time in times]


def cpu(times: Sequence[StepTime]) -> list[float]:
    return [time.cpu_ms for time in times]


def daemons_table(
    cpu_ms: Mapping[int, Sequence[Sequence[float]]],
    scrapes: Mapping[int, Sequence[Scrape]],
) -> Table:
    """Show each node's daemon; ``cpu_ms`` is by number of nodes, round and node."""
    rows: list[dict[str, Figure]] = []
    for count, blocks in cpu_ms.items():
        for index, times in enumerate(zip(*blocks, strict=True)):
            answer = scrapes[count][index]
            cost = quartiles(times)
            rows.append(
                {
                    "where": f"node {index + 1} of {count}",
                    "cpu_ms": cost,
                    "num_bytes": answer.num_bytes,
                    "num_series": answer.num_series,
                    "scrape_ms": quartiles([1e3 * seconds for seconds in answer.seconds]),
                }
            )
            rows[-1]["to_one"] = cost.median / rows[0]["cpu_ms"].median
    return Table(DAEMON_COLUMNS, rows, QUARTILES)


def averages(nodes: Sequence[Node], arguments: argparse.Namespace) -> Table:
    """Let one process and the ranks of several nodes average the same checkpoints in turn."""
    found: dict[int, list[Average]] = {count: [] for count in (0, *arguments.nodes)}
    with tempfile.TemporaryDirectory(prefix="nodes-averaging-") as place:
        directory, log = Path(place) / "checkpoints", Path(place) / "log"
        directory.mkdir()
        averaging.make_checkpoints(directory, "pt", arguments.gigabytes)
        for done in range(arguments.averages):
            for count in random.sample(list(found), len(found)):
                port = FIRST_PORT + done * len(found) + count
                found[count].append(average(directory, nodes[:count], port, log))
    digests = {one.digest for of in found.values() for one in of}
    if len(digests) != 1:
        sys.exit(f"averages differ: {found}")
    return averages_table(found)


def averages_table(found: Mapping[int, Sequence[Average]]) -> Table:
    """Compare with one process, which is 0 nodes, round by round."""
    one = [entry.working_seconds for entry in found[0]]
    rows = []
    for count, entries in found.items():
        working = [entry.working_seconds for entry in entries]
        ranks = f"torchrun, {count} node{'s' if count > 1 else ''} with a rank each"
        rows.append(
            {
                "who": ranks if count else ONE_PROCESS,
                "seconds": quartiles([entry.seconds for entry in entries]),
                "working": quartiles(working),
                "to_one": quartiles(ratios(working, one)),
            }
        )
    return Table(AVERAGE_COLUMNS, rows, QUARTILES)


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"nodes": [1, 2], "rounds": 2, "averages": 1, "gigabytes": 0.05},
    packages=("torch", "numpy", "prometheus-client"),
)

if __name__ == "__main__":
    BENCHMARK.main()
