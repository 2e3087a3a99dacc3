"""Whether a daemon is started, how, and with which environment."""

import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trackside import autostart
from trackside.wire.locks import DAEMON_LOCK_NAME, daemon_pid


class _Started:
    def __init__(self) -> None:
        self.calls: list[tuple[list[str], dict[str, Any]]] = []

    def __call__(self, command: list[str], **options: Any) -> None:
        self.calls.append((command, options))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> _Started:
    fake = _Started()
    monkeypatch.setattr(subprocess, "run", fake)
    return fake


def test_a_daemon_is_started_where_none_runs(tmp_path: Path, started: _Started) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state"), "RANK": "0", "PATH": "/bin"}

    assert autostart.ensure_daemon(tmp_path, environ)

    ((command, options),) = started.calls
    assert command[-7:] == [
        sys.executable, "-P", "-m", "tracksided", "daemon", "--idle-exit", "300", "--low-priority",
    ][-7:]  # fmt: skip
    assert options["env"] == {"XDG_STATE_HOME": str(tmp_path / "state"), "PATH": "/bin"}
    assert options["start_new_session"]
    assert (tmp_path / "state" / "trackside" / "daemon.log").exists()


def test_a_running_daemon_is_left_alone(tmp_path: Path, started: _Started) -> None:
    lock = tmp_path / DAEMON_LOCK_NAME
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # a POSIX lock says nothing to the process that holds it
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.write(ready[1], b".")
        os.close(done[1])
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)

    serving = daemon_pid(tmp_path)
    was_started = autostart.ensure_daemon(tmp_path, {"XDG_STATE_HOME": str(tmp_path)})
    os.close(done[1])
    os.waitpid(child, 0)
    for descriptor in (*ready, done[0]):
        os.close(descriptor)

    assert serving == child
    assert not was_started
    assert started.calls == []
    assert daemon_pid(tmp_path) is None


def test_without_the_daemon_package_nothing_is_started(
    tmp_path: Path, started: _Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name else name)

    assert not autostart.ensure_daemon(tmp_path, {})
    assert started.calls == []


def test_where_the_extra_is_missing_the_install_line_is_named(
    tmp_path: Path,
    started: _Started,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    requirements = ["numpy>=1.26", "no-such-distribution>=8; extra == 'daemon'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requirements)

    assert not autostart.ensure_daemon(tmp_path, {})

    assert started.calls == []
    (line,) = caplog.records
    assert "pip install 'trackside[daemon]'" in line.getMessage()
    assert "pip install '.[daemon]'" in line.getMessage()


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_other_extras_need_not_be_installed(
    tmp_path: Path, started: _Started, monkeypatch: pytest.MonkeyPatch, quote: str
) -> None:
    requirements = [
        f"numpy>=1.26; extra == {quote}daemon{quote}",
        f"no-such-distribution>=8; extra == {quote}gs{quote}",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requirements)

    assert autostart.ensure_daemon(tmp_path, {"XDG_STATE_HOME": str(tmp_path)})

    assert len(started.calls) == 1


def test_a_failed_start_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")

    assert not autostart.ensure_daemon(tmp_path, {"XDG_STATE_HOME": str(tmp_path / "state")})

    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "trackside daemon" in line.getMessage()


def test_a_user_without_a_home_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container that runs as some number: pathlib knows no home and raises RuntimeError."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)

    assert not autostart.ensure_daemon(tmp_path, {})

    (line,) = caplog.records
    assert "run `trackside daemon`" in line.getMessage()


def test_a_large_log_moves_aside(tmp_path: Path, started: _Started) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    log = autostart.log_path(environ)
    log.parent.mkdir(parents=True)
    with log.open("wb") as file:
        file.truncate(autostart.MAX_LOG_BYTES + 1)

    autostart.ensure_daemon(tmp_path, environ)

    assert len(started.calls) == 1
    assert log.stat().st_size == 0
    assert log.with_name("daemon.log.1").stat().st_size == autostart.MAX_LOG_BYTES + 1


def test_a_daemon_inherits_nothing_of_a_trainer() -> None:
    kept = {"PATH": "/bin", "HOME": "/h", "TRACKSIDE_SHM_DIR": "/s", "PYTHONPATH": "/p"}
    trainer = {
        "RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "TORCHELASTIC_RUN_ID": "x",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        "LD_PRELOAD": "x.so",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_PID": "7",
        "WATCHDOG_USEC": "1000000",
    }

    assert autostart.daemon_environment({**kept, **trainer}) == kept
