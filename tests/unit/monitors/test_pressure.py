"""Levels of memory pressure, from PSI files and cgroups that lie in a directory."""

from pathlib import Path

import pytest

from tracksided.monitors.monitor import Watched
from tracksided.monitors.pressure import Pressure, level, read_stall
from tracksided.monitors.reading import HostReading

PID = 4711
CALM = "".join(f"{kind} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n" for kind in ("some", "full"))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with a calm host and no cgroups."""
    proc = tmp_path / "proc"
    (proc / "pressure").mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / str(PID)).mkdir()
    (proc / "pressure" / "memory").write_text(CALM)
    return proc


def mount(proc: Path, line: str, membership: str) -> None:
    (proc / "self" / "mountinfo").write_text(line)
    (proc / str(PID) / "cgroup").write_text(membership)


def cgroup_v2(directory: Path, used: str, limit: str, inactive: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 9\n")


def read(proc: Path, memory_percent: float | None = 10.0) -> HostReading:
    before = HostReading(timestamp=0.0, memory_percent=memory_percent)
    return Pressure(proc).read(Watched(ranks={PID: 0}), before)


@pytest.mark.parametrize(
    ("used", "some", "full", "expected"),
    [
        (None, None, None, None),
        (79.9, 9.9, 9.9, 0),
        (80.0, 0.0, 0.0, 1),
        (0.0, 10.0, 0.0, 1),
        (90.0, 0.0, 0.0, 2),
        (0.0, 99.0, 10.0, 2),
        (95.0, 0.0, 0.0, 3),
        (0.0, 99.0, 40.0, 3),
        (81.0, None, None, 1),
        (None, 50.0, None, 1),
    ],
)
def test_the_level_is_the_highest_that_any_sign_reaches(
    used: float | None, some: float | None, full: float | None, expected: int | None
) -> None:
    assert level(used, some, full) == expected


def test_a_psi_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_text(
        "some avg10=12.34 avg60=5.00 avg300=1.00 total=123\n"
        "full avg10=4.50 avg60=2.00 avg300=0.50 total=45\n"
    )

    stall = read_stall(path)

    assert stall is not None
    assert (stall.some_percent, stall.full_percent) == (12.34, 4.5)


@pytest.mark.parametrize("content", ["", "some avg10=x\n", "some\n", "full avg10=1.0 total=0\n"])
def test_a_psi_file_that_makes_no_sense_is_unknown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "memory"
    path.write_text(content)

    assert read_stall(path) is None
    assert read_stall(tmp_path / "missing") is None


def test_a_cgroup_near_its_limit_counts_although_the_host_has_room(
    proc: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cgroup"
    mount(proc, f"41 31 0:38 / {root} rw - cgroup2 cgroup2 rw\n", "0::/job/rank0\n")
    cgroup_v2(root / "job" / "rank0", used="600", limit="max")
    cgroup_v2(root / "job", used="1000", limit="1000", inactive=80)
    (root / "job" / "memory.pressure").write_text(CALM.replace("some avg10=0.00", "some avg10=7.5"))

    reading = read(proc)

    assert (reading.cgroup_memory_bytes, reading.cgroup_memory_limit_bytes) == (920, 1000)
    assert reading.memory_pressure_level == 2  # 92 % of what it may use
    assert (reading.pressure_some_avg10, reading.pressure_full_avg10) == (7.5, 0.0)


def test_of_nested_limits_the_nearest_counts(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    mount(proc, f"41 31 0:38 / {root} rw - cgroup2 cgroup2 rw\n", "0::/a/b\n")
    cgroup_v2(root / "a" / "b", used="50", limit="100")
    cgroup_v2(root / "a", used="960", limit="1000")

    reading = read(proc)

    assert (reading.cgroup_memory_bytes, reading.cgroup_memory_limit_bytes) == (960, 1000)
    assert reading.memory_pressure_level == 3


def test_version_1_with_the_mount_of_a_container(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "memory"
    mount(
        proc,
        f"30 31 0:31 / {tmp_path / 'cpu'} rw - cgroup cgroup rw,cpu\n"
        f"35 31 0:32 /docker/abc {root} rw,relatime shared:9 - cgroup cgroup rw,memory\n",
        "5:devices:/docker/abc\n4:cpu,memory:/docker/abc/inner\n",
    )
    (root / "inner").mkdir(parents=True)
    for directory, used, limit in ((root, 810, 1000), (root / "inner", 700, 9223372036854771712)):
        (directory / "memory.usage_in_bytes").write_text(f"{used}\n")
        (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (directory / "memory.stat").write_text("inactive_file 500\ntotal_inactive_file 10\n")

    reading = read(proc)

    assert (reading.cgroup_memory_bytes, reading.cgroup_memory_limit_bytes) == (800, 1000)
    assert reading.memory_pressure_level == 1


def test_a_rank_of_another_cgroup_namespace_is_bound_by_what_is_mounted(
    proc: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cgroup"
    mount(proc, f"41 31 0:38 /pod {root} rw - cgroup2 cgroup2 rw\n", "0::/../other\n")
    cgroup_v2(root, used="300", limit="1000")

    assert read(proc).cgroup_memory_limit_bytes == 1000


def test_a_limit_above_the_memory_of_the_host_is_none(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    mount(proc, f"41 31 0:38 / {root} rw - cgroup2 cgroup2 rw\n", "0::/\n")
    cgroup_v2(root, used="300", limit=str(1 << 59))

    reading = read(proc)

    assert reading.cgroup_memory_bytes is None
    assert reading.memory_pressure_level == 0


def test_a_kernel_without_psi_leaves_it_unknown(proc: Path) -> None:
    (proc / "pressure" / "memory").unlink()

    reading = read(proc, memory_percent=85.0)

    assert (reading.pressure_some_avg10, reading.pressure_full_avg10) == (None, None)
    assert reading.memory_pressure_level == 1
