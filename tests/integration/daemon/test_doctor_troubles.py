"""`trackside doctor` beside real troubles: each is named, with its mend."""

import json
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from written import steps

from trackside.wire.segment import SHM_DIR_VARIABLE, remove
from tracksided.cli.group import group
from tracksided.status_file import SILENT_S

pytestmark = pytest.mark.integration

needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trouble is made, and what the doctor is told to look at."""

    shm_dir: Path
    out: Path
    daemon: DaemonProcess


@pytest.fixture
def place(shm_dir: Path, tmp_path: Path, daemon: DaemonProcess) -> Place:
    return Place(shm_dir, tmp_path / "out", daemon)


@contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    made = subprocess.run(["mount", *arguments, path], capture_output=True, check=False, text=True)
    if made.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def full_shared_memory(place: Place) -> Iterator[None]:
    small = place.shm_dir / "small"
    with (
        mounted(small, "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(SHM_DIR_VARIABLE, str(small))
        yield


@contextmanager
def full_disk(place: Place) -> Iterator[None]:
    with mounted(place.out, "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        (place.out / "ballast").write_bytes(bytes(1 << 20))
        yield


@contextmanager
def read_only_outputs(place: Place) -> Iterator[None]:
    place.out.mkdir()
    with mounted(place.out, "--bind", str(place.out)):
        subprocess.run(["mount", "-o", "remount,ro,bind", place.out], check=True)
        yield


@contextmanager
def served(place: Place) -> Iterator[FakeRank]:
    """A run with one step on disk; it ends in the end."""
    place.daemon.start()
    rank = FakeRank(place.shm_dir, make_hello(place.out))
    rank.publish(1)
    wait_until(lambda: steps(place.out) == [1])
    yield rank
    rank.close()
    wait_until(lambda: not list(place.shm_dir.glob("*.ring")))


@contextmanager
def vanished_outputs(place: Place) -> Iterator[None]:
    """The directory is gone, and what took its place is in the way of a new one."""
    with served(place) as rank:
        shutil.move(place.out, place.out.with_name("moved"))
        place.out.write_text("in the way")
        rank.publish(2)
        wait_until(lambda: bool(place.daemon.status["runs"][0]["problem"]))
        yield
        place.out.unlink()


@contextmanager
def refused_segment(place: Place, damage: Callable[[Path], None]) -> Iterator[None]:
    rank = FakeRank(place.shm_dir, make_hello(place.out))
    rank.publish(1)
    rank.abandon()
    damage(rank.writer.path)
    place.daemon.start()
    wait_until((place.shm_dir / "status.json").exists)
    wait_until(lambda: bool(place.daemon.status["refused"]))
    yield
    remove(rank.writer.path)


def foreign_segment(place: Place) -> AbstractContextManager[None]:
    return refused_segment(place, lambda path: path.write_bytes(b"not ours" * 1024))


def other_wire_version(place: Place) -> AbstractContextManager[None]:
    def raise_version(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(8)  # docs/wire-format.md: u32 at byte 8
            file.write(struct.pack("<I", 99))

    return refused_segment(place, raise_version)


@contextmanager
def dead_daemon(place: Place) -> Iterator[None]:
    with served(place) as rank:
        place.daemon.kill()
        rank.publish(2)
        yield
        place.daemon.start()


@contextmanager
def stopped_daemon(place: Place) -> Iterator[None]:
    with served(place):
        wait_until(lambda: bool(place.daemon.status["runs"]))
        place.daemon.signal(signal.SIGSTOP)
        status = place.daemon.status
        status["updated_monotonic"] -= 2 * SILENT_S  # as if it had been stopped that long ago
        (place.shm_dir / "status.json").write_text(json.dumps(status))
        yield
        place.daemon.signal(signal.SIGCONT)


@contextmanager
def open_directory(place: Place) -> Iterator[None]:
    place.shm_dir.chmod(0o755)
    yield
    place.shm_dir.chmod(0o700)


TROUBLES = [
    pytest.param(full_shared_memory, "shared memory", "--shm-size", marks=needs_mounts),
    pytest.param(full_disk, "outputs", "free some space", marks=needs_mounts),
    pytest.param(read_only_outputs, "outputs", "save_dir= elsewhere", marks=needs_mounts),
    (vanished_outputs, "outputs", "the daemon goes on by itself"),
    (foreign_segment, "segments", "remove it from"),
    (other_wire_version, "segments", "upgrade the older of trainer and daemon"),
    (dead_daemon, "daemon", "start one: trackside daemon"),
    (stopped_daemon, "daemon", "kill -CONT"),
    (open_directory, "node directory", "chmod 700"),
]


@pytest.mark.parametrize(("trouble", "check", "mend"), TROUBLES)
def test_a_real_trouble_is_named_with_its_mend(
    place: Place,
    trouble: Callable[[Place], AbstractContextManager[None]],
    check: str,
    mend: str,
) -> None:
    with trouble(place):
        answer = CliRunner().invoke(group, ["doctor", "--json", "-o", str(place.out)])

    findings = [entry for entry in json.loads(answer.output)["findings"] if entry["mend"]]
    named = [entry["mend"] for entry in findings if entry["check"] == check]
    assert any(mend in text for text in named), findings
