"""A service that is closed at the end of the test, its clock, and a disk that is soon full."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from averaging_service import Clock

from tracksided.checkpoints.service import CheckpointService

DISK_BYTES = 1 << 20


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_service() -> Iterator[Callable[..., CheckpointService]]:
    services: list[CheckpointService] = []

    def make(**options: object) -> CheckpointService:
        services.append(CheckpointService(**options))  # type: ignore[arg-type] # as given
        return services[-1]

    yield make
    for service in services:
        service.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; the test is to be skipped where it cannot be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
