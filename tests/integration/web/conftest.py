"""A site that is stopped at the end of the test, and a real daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from web_site import WebSite


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WebSite]:
    site = WebSite(tmp_path)
    yield site
    site.stop()


@pytest.fixture
def daemon(shm_dir: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(shm_dir, tmp_path / "daemon.log")
    yield process
    process.kill()
