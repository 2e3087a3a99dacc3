"""Two nodes, each with a shared memory of its own."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import Node, joined_nodes


@pytest.fixture
def nodes() -> Iterator[tuple[Node, ...]]:
    with joined_nodes(2) as pair:
        yield pair


@pytest.fixture
def memories() -> Iterator[tuple[Path, Path]]:
    """Each node's own shared memory."""
    base = Path("/dev/shm") / f"ts-test-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    pair = base / "0", base / "1"
    for path in pair:
        path.mkdir(mode=0o700, parents=True)
    yield pair
    shutil.rmtree(base)
