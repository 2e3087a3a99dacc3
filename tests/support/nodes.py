"""Two nodes of a cluster on one machine: network namespaces joined by a cable. Needs root."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NETWORK = "10.231.7"
INTERFACE = "cable"


@dataclass(frozen=True)
class Node:
    """One namespace; programs started here see its own network and nothing else."""

    namespace: str
    address: str

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *arguments],
                env=os.environ | environ,
                stdout=output,
                stderr=output,
            )

    def ask(self, url: str) -> Any:
        """Fetch JSON from inside of the node; None where nobody answers."""
        program = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Make two nodes, and take them away again."""
    key = secrets.token_hex(3)
    nodes = [Node(f"ts-{key}-{i}", f"{NETWORK}.{i + 1}") for i in range(2)]
    try:
        for node in nodes:
            _ip("netns", "add", node.namespace)
        first, second = (node.namespace for node in nodes)
        _ip(
            *("link", "add", INTERFACE, "netns", first, "type", "veth"),
            *("peer", "name", INTERFACE, "netns", second),
        )
        for node in nodes:
            inside = ("-n", node.namespace)
            _ip(*inside, "addr", "add", f"{node.address}/24", "dev", INTERFACE)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", INTERFACE, "up")
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.namespace], check=False)


def can_make_nodes() -> bool:
    """Whether this process may make network namespaces."""
    probe = f"ts-probe-{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", probe)
    except (OSError, subprocess.CalledProcessError):
        return False
    _ip("netns", "del", probe)
    return True


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
