"""A file server that stops answering: what hangs on it, and what must not."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from written import history, load

pytestmark = pytest.mark.integration

DISK_BYTES = 32 << 20
TOOLS = ("mkfs.ext4", "mount", "umount", "fsfreeze")


class Disk:
    """A file system that can be frozen: whoever writes there then waits, and cannot be killed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", self.path], check=True)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "--unfreeze", self.path], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0 or not all(map(shutil.which, TOOLS)):
        pytest.skip("a file system that can be frozen needs root, mkfs.ext4 and fsfreeze")
    image, path = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    path.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    disk = Disk(path)
    yield disk
    disk.thaw()
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def thawed_daemon(disk: Disk, daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """Ends before the daemon does: a process that hangs in the disk cannot be killed."""
    yield daemon
    disk.thaw()


def problem_of(daemon: DaemonProcess, run: str) -> str:
    if not (daemon.directory / "status.json").exists():
        return ""
    runs = daemon.status["runs"]
    return str(next((entry["problem"] for entry in runs if entry["run"] == run), ""))


def test_other_runs_and_the_sign_of_life_go_on_and_nothing_is_lost(
    shm_dir: Path, tmp_path: Path, disk: Disk, thawed_daemon: DaemonProcess
) -> None:
    daemon = thawed_daemon
    settings = tmp_path / "daemon.toml"
    settings.write_text("[workers]\njob_seconds = 3.0\n")
    daemon.start("--config", str(settings))
    hung, sound = (
        FakeRank(shm_dir, make_hello(place, run=place.name), nonce=place.name)
        for place in (disk.path / "hung", tmp_path / "sound")
    )
    for rank in (hung, sound):
        rank.publish(1)
    wait_until(lambda: all(len(history(p)) == 1 for p in (disk.path / "hung", tmp_path / "sound")))

    disk.freeze()
    for step in (2, 3, 4):
        hung.publish(step)
    wait_until(lambda: "is not written after" in problem_of(daemon, "hung"))
    for step in range(2, 30):
        sound.publish(step)
    wait_until(lambda: len(history(tmp_path / "sound")) == 29)
    before = daemon.status["updated_monotonic"]
    wait_until(lambda: daemon.status["updated_monotonic"] > before)
    disk.thaw()
    for rank in (hung, sound):
        rank.close(steps=30)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert daemon.stop() == 0
    assert [line["step"] for line in history(disk.path / "hung")] == [1, 2, 3, 4]
    assert load(disk.path / "hung" / "run.json")["state"] == "finished"
    assert daemon.output.count("is not written after") == 1
    assert "what took so long is done" in daemon.output


def test_a_daemon_can_be_stopped_while_a_file_system_hangs(
    shm_dir: Path, disk: Disk, thawed_daemon: DaemonProcess
) -> None:
    daemon = thawed_daemon
    disk.freeze()
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(disk.path / "out"))
    rank.publish(1)
    wait_until(lambda: "is not read after" in problem_of(daemon, rank.hello.run))

    os.kill(daemon.pid, 15)
    wait_until(lambda: not (shm_dir / "status.json").exists())
    disk.thaw()

    assert daemon.wait() == 0
    daemon.start()
    rank.close(steps=1)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    assert [line["step"] for line in history(disk.path / "out")] == [1]
