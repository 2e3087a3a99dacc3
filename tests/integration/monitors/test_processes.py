"""Memory and CPU of real processes, against /proc read by hand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracksided.monitors.monitor import Watched
from tracksided.monitors.processes import Processes
from tracksided.monitors.reading import HostReading

pytestmark = pytest.mark.integration

EMPTY = HostReading(timestamp=0.0)
PAGE = os.sysconf("SC_PAGE_SIZE")
# Holds 64 MiB, has a child that holds 32 MiB, and keeps busy for as long as it is let.
TREE = """
import subprocess, sys
held = bytearray(64 << 20)
child = subprocess.Popen([sys.executable, "-c",
    "import sys; held = bytearray(32 << 20); print('up', flush=True); sys.stdin.read()"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
for line in sys.stdin:
    for _ in range(3_000_000):
        pass
    print("done", flush=True)
child.communicate()
"""


@pytest.fixture
def tree() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process and the id of its child."""
    process = subprocess.Popen(
        [sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, int(process.stdout.readline())
    process.communicate()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def test_a_rank_counts_with_its_children(tree: tuple[subprocess.Popen[str], int]) -> None:
    process, child = tree
    expected = resident_bytes(process.pid) + resident_bytes(child)

    reading = Processes().read(Watched(ranks={process.pid: 3}), EMPTY)

    found = reading.processes[process.pid]
    assert found.rank == 3
    assert found.rss_bytes == pytest.approx(expected, rel=0.02)
    assert found.rss_bytes > 96 << 20
    assert found.cpu_percent is None


def test_cpu_of_a_rank_is_that_of_its_tree_since_the_reading_before(
    tree: tuple[subprocess.Popen[str], int],
) -> None:
    process, _ = tree
    assert process.stdin is not None
    assert process.stdout is not None
    processes, watched = Processes(), Watched(ranks={process.pid: 0})
    processes.read(watched, EMPTY)
    start, ticks = time.monotonic(), own_ticks(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()
    process.stdout.readline()

    found = processes.read(watched, EMPTY).processes[process.pid].cpu_percent
    seconds = time.monotonic() - start

    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    expected = 100 * (own_ticks(process.pid) - ticks) * tick_s / seconds
    assert expected > 0
    assert found == pytest.approx(expected, abs=100 * 3 * tick_s / seconds)


def own_ticks(pid: int) -> int:
    """User and system time, the fields 14 and 15 of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_process_that_is_gone_is_missing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    assert Processes().read(Watched(ranks={process.pid: 0}), EMPTY).processes == {}
