"""Fixtures that every test may use."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from hypothesis import HealthCheck, settings

# Before anything imports torch: on few cores its threads cost tiny tests four times their work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No upper bound on the time of an example: other tests run beside it.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def shm_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private node-local directory; the test fails if it leaves a segment behind.

    It lies under /dev/shm and has a short name, because a Unix socket path holds 107 bytes.
    """
    path = Path("/dev/shm") / f"ts-test-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    path.mkdir(mode=0o700)
    monkeypatch.setenv("TRACKSIDE_SHM_DIR", str(path))
    yield path
    left = sorted(
        entry.name for entry in path.iterdir() if entry.suffix in {".ring", ".alive", ".tmp"}
    )
    shutil.rmtree(path)
    assert not left, f"left behind in shared memory: {left}"


@pytest.fixture
def daemon(shm_dir: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    """A real daemon, not started; killed at the end of the test if it still runs."""
    process = DaemonProcess(shm_dir, tmp_path / "daemon.log")
    yield process
    process.kill()


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """torch.distributed over gloo, of one rank with itself."""
    from torch import distributed  # noqa: PLC0415 - most tests do without torch

    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
