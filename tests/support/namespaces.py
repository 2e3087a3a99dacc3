"""Nodes of a cluster on one machine: network namespaces, cabled to one switch. Needs root."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NETWORK = "10.231.7"
INTERFACE = "cable"
SWITCH = "switch"


@dataclass(frozen=True)
class Node:
    """One namespace; programs started here see its own network and nothing else."""

    namespace: str
    address: str

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], log: Path, **pipes: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program; what it says goes to a log, or to pipes that Popen takes."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.inside(*arguments),
                env=os.environ | environ,
                **({"stdout": output, "stderr": output} | pipes),
            )

    def inside(self, *arguments: str) -> list[str]:
        """Return the command that runs another one here; it keeps its process id."""
        return ["ip", "netns", "exec", self.namespace, *arguments]

    def ask(self, url: str) -> Any:
        """Fetch JSON from inside of the node; None where nobody answers."""
        program = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        done = subprocess.run(
            self.inside(sys.executable, "-c", program),
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None


@contextmanager
def joined_nodes(count: int) -> Iterator[tuple[Node, ...]]:
    """Make nodes, and take them away again with all that still runs there."""
    key = secrets.token_hex(3)
    switch = Node(f"ts-{key}-{SWITCH}", "")
    nodes = tuple(Node(f"ts-{key}-{i}", f"{NETWORK}.{i + 1}") for i in range(count))
    try:
        for node in (switch, *nodes):
            _ip("netns", "add", node.namespace)
        _ip("-n", switch.namespace, "link", "add", SWITCH, "up", "type", "bridge")
        for i, node in enumerate(nodes):
            _ip(
                *("link", "add", INTERFACE, "netns", node.namespace, "type", "veth"),
                *("peer", "name", f"port{i}", "netns", switch.namespace),
            )
            _ip("-n", switch.namespace, "link", "set", f"port{i}", "up", "master", SWITCH)
            inside = ("-n", node.namespace)
            _ip(*inside, "addr", "add", f"{node.address}/24", "dev", INTERFACE)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", INTERFACE, "up")
        yield nodes
    finally:
        for node in (switch, *nodes):
            _remove(node)


def torchrun(
    nodes: Sequence[Node], index: int, *, port: int, num_ranks: int = 1, run: str = "one-run"
) -> list[str]:
    """Return the launcher of one of several nodes; what it shall run is added to it."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={len(nodes)}", f"--nproc-per-node={num_ranks}", f"--node-rank={index}"),
        *("--rdzv-backend=static", f"--rdzv-id={run}"),
        *(f"--master-addr={nodes[0].address}", f"--master-port={port}"),
    ]


def can_make_nodes() -> bool:
    """Whether this process may make network namespaces."""
    probe = f"ts-probe-{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", probe)
    except (OSError, subprocess.CalledProcessError):
        return False
    _ip("netns", "del", probe)
    return True


def _remove(node: Node) -> None:
    asked = ["ip", "netns", "pids", node.namespace]
    left = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    for pid in left.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", node.namespace], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
