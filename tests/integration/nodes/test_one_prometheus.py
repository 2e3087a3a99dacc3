"""One Prometheus reads the daemons of several nodes, and puts the ranks of a run together."""

import json
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_process import wait_until
from documents import blocks
from fake_trainer import FakeRank, make_hello
from namespaces import Node, can_make_nodes
from two_node_job import HTTP_PORT, RANKS, RUN, STEPS, start_daemon, two_node_job

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_make_nodes(), reason="network namespaces need root and iproute2"),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not here (apt-get install prometheus)",
    ),
]

PROMETHEUS_PORT = 9090  # of a namespace that is ours alone
UNEQUAL_STEPS = (3, 5)  # that the rank of each node publishes
UNEQUAL_DROPS = (1, 2)  # samples of each that are too large
UNEQUAL_SECONDS = (0.25, 0.5)  # that a step of each takes
RING_BYTES = 1 << 20
PAGE = "docs/scaling.md"


def queries() -> list[str]:
    """Return what the page asks Prometheus, line by line."""
    (block,) = (block for block in blocks("promql") if block.page == PAGE)
    return [line.partition("  #")[0].strip() for line in block.text.splitlines()]


@contextmanager
def prometheus(nodes: tuple[Node, ...], place: Path) -> Iterator[None]:
    """Let a Prometheus on the first node read all nodes."""
    targets = json.dumps([f"{node.address}:{HTTP_PORT}" for node in nodes])
    config = place / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 5s, scrape_timeout: 5s}\n"
        f"scrape_configs: [{{job_name: trackside, static_configs: [{{targets: {targets}}}]}}]\n"
    )
    command = [
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={place / 'tsdb'}"),
        *(f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}", "--log.level=error"),
    ]
    process = nodes[0].start(command, {}, place / "prometheus.log")
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def ask(node: Node, expression: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and values, as Prometheus has them."""
    query = urllib.parse.quote(expression)
    answer: Any = node.ask(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?query={query}")
    found = [] if answer is None else answer["data"]["result"]
    return [(entry["metric"], float(entry["value"][1])) for entry in found]


def by_rank(node: Node, expression: str) -> dict[str, float]:
    return {labels["rank"]: value for labels, value in ask(node, expression)}


def places(node: Node, expression: str) -> set[tuple[str, str]]:
    """Return which daemon told of which rank."""
    return {(labels["instance"], labels["rank"]) for labels, _ in ask(node, expression)}


def test_ranks_of_a_job_by_torchrun_are_read_together(
    nodes: tuple[Node, ...], memories: tuple[Path, Path], tmp_path: Path
) -> None:
    with two_node_job(nodes, memories, tmp_path) as job, prometheus(nodes, tmp_path):
        of_run = f'{{run="{RUN}"}}'
        everywhere = {str(rank): float(STEPS) for rank in range(RANKS)}
        wait_until(lambda: by_rank(nodes[0], f"trackside_rank_last_step{of_run}") == everywhere)

        first, second = (f"{node.address}:{HTTP_PORT}" for node in nodes)
        alive = {(first, "0"), (first, "1"), (second, "2"), (second, "3")}
        wait_until(lambda: places(nodes[0], f"trackside_rank_alive{of_run} == 1") == alive)
        # What the plan for a cluster asks: all ranks of the job are there, and nothing was lost.
        for expression, value in (
            (f"count by (run) (trackside_rank_last_step{of_run})", float(RANKS)),
            (f"absent(trackside_rank_dropped_samples_total{of_run})", 1.0),
        ):
            answer = [({"run": RUN}, value)]
            wait_until(lambda expr=expression, answer=answer: ask(nodes[0], expr) == answer)
        job.finish()


def test_what_the_page_asks_is_answered_over_all_nodes(
    nodes: tuple[Node, ...], memories: tuple[Path, Path], tmp_path: Path
) -> None:
    daemons, ranks = [], []
    try:
        for index, (node, memory) in enumerate(zip(nodes, memories, strict=True)):
            daemons.append(start_daemon(node, memory, tmp_path / f"daemon{index}.toml"))
            place = {"rank": index, "node_rank": index, "world_size": 2, "local_world_size": 1}
            hello = make_hello(tmp_path / "run", run=RUN, visualize=(), **place)
            rank = FakeRank(memory, hello, nonce=f"n{index}", ring_bytes=RING_BYTES)
            ranks.append(rank)
            for step in range(1, UNEQUAL_DROPS[index] + 1):
                rank.publish(step, arrays={"large": np.zeros(RING_BYTES)})
            for step in range(1, UNEQUAL_STEPS[index] + 1):
                rank.publish(step, step_seconds=UNEQUAL_SECONDS[index])
        with prometheus(nodes, tmp_path):
            expected = {"0": float(UNEQUAL_STEPS[0]), "1": float(UNEQUAL_STEPS[1])}
            wait_until(lambda: by_rank(nodes[0], "trackside_rank_last_step") == expected)

            # The slowest rank, the slowest node, all that was dropped.
            values = [min(UNEQUAL_STEPS), max(UNEQUAL_SECONDS), sum(UNEQUAL_DROPS)]
            for expression, value in zip(queries(), values, strict=True):
                answer = [({"run": RUN}, float(value))]
                wait_until(lambda expr=expression, answer=answer: ask(nodes[0], expr) == answer)
    finally:
        for rank in ranks:
            rank.close()
        wait_until(lambda: not any(list(memory.glob("*.ring")) for memory in memories))
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()
