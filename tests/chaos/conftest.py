"""A real daemon, killed at the end of the test if it still runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess


@pytest.fixture
def daemon(shm_dir: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(shm_dir, tmp_path / "daemon.log")
    yield process
    process.kill()
