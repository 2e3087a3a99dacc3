"""One Prometheus reads the daemons of several nodes, and puts the ranks of a run together."""

import json
import shutil
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from daemon_process import wait_until
from fake_trainer import FakeRank, make_hello
from nodes import Node, can_make_nodes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_make_nodes(), reason="network namespaces need root and iproute2"),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not here (apt-get install prometheus)",
    ),
]

PORT, PROMETHEUS_PORT = 9470, 9090  # of namespaces that are ours alone
STEPS = (3, 5)  # that the rank of each node publishes


def ask(node: Node, expression: str) -> dict[str, float]:
    """Return the value of each rank, as Prometheus has it."""
    query = urllib.parse.quote(expression)
    answer: Any = node.ask(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?query={query}")
    found = [] if answer is None else answer["data"]["result"]
    return {entry["metric"].get("rank", ""): float(entry["value"][1]) for entry in found}


def test_ranks_of_all_nodes_are_read_together(
    nodes: tuple[Node, Node], memories: tuple[Path, Path], tmp_path: Path
) -> None:
    processes, ranks = [], []
    try:
        for index, (node, memory) in enumerate(zip(nodes, memories, strict=True)):
            settings = tmp_path / f"node{index}.toml"
            settings.write_text(f'[http]\nlisten = "{node.address}:{PORT}"\nallow_remote = true\n')
            daemon = [sys.executable, "-P", "-m", "tracksided", "daemon", "--config", str(settings)]
            environ = {"TRACKSIDE_SHM_DIR": str(memory)}
            processes.append(node.start(daemon, environ, tmp_path / f"daemon{index}.log"))
            place = {"rank": index, "node_rank": index, "world_size": 2, "local_world_size": 1}
            hello = make_hello(tmp_path / "run", run="one-run", visualize=(), **place)
            rank = FakeRank(memory, hello, nonce=f"n{index}")
            ranks.append(rank)
            for step in range(1, STEPS[index] + 1):
                rank.publish(step)
        targets = json.dumps([f"{node.address}:{PORT}" for node in nodes])
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
            f"scrape_configs: [{{job_name: trackside, static_configs: [{{targets: {targets}}}]}}]\n"
        )
        command = [
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"),
            *(f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}", "--log.level=error"),
        ]
        processes.append(nodes[0].start(command, {}, tmp_path / "prometheus.log"))

        expected = {"0": float(STEPS[0]), "1": float(STEPS[1])}
        wait_until(lambda: ask(nodes[0], 'trackside_rank_last_step{run="one-run"}') == expected)

        # What a dashboard asks: how far the slowest rank of the run is, over all nodes.
        slowest = ask(nodes[0], 'min by (run) (trackside_rank_last_step{run="one-run"})')
        assert slowest == {"": float(min(STEPS))}
    finally:
        for rank in ranks:
            rank.close()
        wait_until(lambda: not any(list(memory.glob("*.ring")) for memory in memories))
        for process in processes:
            process.terminate()
            process.wait()
