"""CPU, memory and disks, against what other programs and files of the system say."""

import subprocess
import time
from pathlib import Path

import pytest

from tracksided.monitors.disk import Disks
from tracksided.monitors.host import Host
from tracksided.monitors.monitor import Watched, together
from tracksided.monitors.reading import HostReading

EMPTY = HostReading(timestamp=0.0)


def cpu_ticks() -> tuple[int, int]:
    """All and idle ticks since boot, of /proc/stat; guest time is in user time already."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return sum(ticks[:8]), ticks[3] + ticks[4]


def test_memory_is_what_meminfo_says_is_not_available() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}

    found = Host().read(Watched(), EMPTY).memory_percent

    expected = 100 * (1 - kilobytes["MemAvailable"] / kilobytes["MemTotal"])
    assert found == pytest.approx(expected, abs=3.0)  # other processes do not stand still


def test_cpu_is_unknown_at_first_then_the_busy_share_since() -> None:
    host = Host()
    assert host.read(Watched(), EMPTY).cpu_percent is None
    total, idle = cpu_ticks()
    deadline = time.monotonic() + 30
    while cpu_ticks()[0] - total < 4 and time.monotonic() < deadline:
        pass

    found = host.read(Watched(), EMPTY).cpu_percent
    total_after, idle_after = cpu_ticks()

    expected = 100 * (1 - (idle_after - idle) / (total_after - total))
    one_tick = 100 / (total_after - total)
    assert found == pytest.approx(expected, abs=3 * one_tick)


def test_a_disk_is_that_of_the_nearest_parent_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet"
    words = subprocess.check_output(["df", "-B1", "--output=size", tmp_path], text=True).split()

    (disk,) = Disks().read(Watched(paths=(str(path),)), EMPTY).disks

    assert disk.path == str(path)
    assert disk.total_bytes == int(words[1])
    assert 0 < disk.free_bytes <= disk.total_bytes


def test_questions_of_several_runs_become_one() -> None:
    first = Watched(ranks={1: 0}, paths=("/a", "/b"))
    second = Watched(ranks={2: 0}, paths=("/b",), without=frozenset({"gpus"}))

    assert together([first, second]) == Watched(
        ranks={1: 0, 2: 0}, paths=("/a", "/b"), without=frozenset({"gpus"})
    )
