"""A real daemon with HTTP switched on."""

import os
import signal
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from web_site import answers, free_port, get

from tracksided.cli.group import group
from tracksided.sinks.json_file import write_json

pytestmark = pytest.mark.integration


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    path = tmp_path / "daemon.toml"
    path.write_text(f'[http]\nlisten = "127.0.0.1:{port}"\n', encoding="utf-8")
    return path


def test_http_is_off_unless_it_is_asked_for(daemon: DaemonProcess, tmp_path: Path):
    empty = tmp_path / "empty.toml"
    empty.touch()
    daemon.start("--config", str(empty))
    wait_until((daemon.directory / "status.json").exists)

    assert daemon.status["http"] is None


def test_a_run_is_served_from_its_first_step_on(
    daemon: DaemonProcess, config: Path, port: int, tmp_path: Path
):
    daemon.start("--config", str(config))
    wait_until(lambda: answers(port))
    rank = FakeRank(daemon.directory, make_hello(tmp_path / "run", run="served"))
    rank.publish(10)
    rank.publish(20)

    wait_until(lambda: 'trackside_run_loss{run="served"} 0.5' in get(port, "/metrics").text)

    assert get(port, "/health").json["pid"] == daemon.pid
    rank.close(steps=20)
    wait_until(lambda: 'run="served"' not in get(port, "/metrics").text)
    assert daemon.stop() == 0


def test_the_server_ends_with_a_daemon_that_is_killed(
    daemon: DaemonProcess, config: Path, port: int
):
    daemon.start("--config", str(config))
    wait_until(lambda: answers(port))

    daemon.kill()

    wait_until(lambda: not answers(port))


def test_a_server_that_is_killed_is_started_again(daemon: DaemonProcess, config: Path, port: int):
    daemon.start("--config", str(config))
    wait_until(lambda: answers(port))
    pid = daemon.status["http"]["pid"]

    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: daemon.status["http"]["pid"] not in {None, pid} and answers(port))
    assert daemon.code is None


def test_a_port_that_is_taken_costs_only_http(
    daemon: DaemonProcess, config: Path, port: int, tmp_path: Path
):
    with socket.create_server(("127.0.0.1", port)):
        daemon.start("--config", str(config))
        wait_until(
            lambda: (
                (daemon.directory / "status.json").exists()
                and (daemon.status["http"]["problem"] or "").startswith("HTTP cannot be served")
            )
        )
        rank = FakeRank(daemon.directory, make_hello(tmp_path / "run"))
        rank.publish(10)
        rank.close(steps=10)
        wait_until(lambda: not list(daemon.directory.glob("*.ring")))

    wait_until(lambda: answers(port))


def test_a_stopped_daemon_is_not_healthy(daemon: DaemonProcess, config: Path, port: int):
    """The HTTP process answers by itself; what it reads is old, and it says so."""
    daemon.start("--config", str(config))
    wait_until(lambda: answers(port) and get(port, "/health").status == 200)
    daemon.signal(signal.SIGSTOP)
    status = daemon.status
    stamps = {name: status[name] - 60 for name in ("updated_at", "updated_monotonic")}
    write_json(daemon.directory / "status.json", status | stamps)

    wait_until(lambda: get(port, "/health").status == 503)

    assert f"pid {daemon.pid}" in get(port, "/health").json["reason"]
    daemon.signal(signal.SIGCONT)
    wait_until(lambda: get(port, "/health").status == 200)


def test_an_option_switches_http_on_and_status_and_doctor_tell_of_it(
    daemon: DaemonProcess, port: int, tmp_path: Path
):
    empty = tmp_path / "empty.toml"
    empty.touch()
    daemon.start("--config", str(empty), "--http", f"127.0.0.1:{port}")
    wait_until(lambda: answers(port) and (daemon.directory / "status.json").exists())

    status = CliRunner().invoke(group, ["status"]).output
    findings = CliRunner().invoke(group, ["doctor"]).output

    assert f"page http://127.0.0.1:{port}/\n" in status
    assert f"http: http://127.0.0.1:{port}/ answers\n" in findings


def test_reloaded_settings_move_the_page(daemon: DaemonProcess, config: Path, port: int):
    daemon.start("--config", str(config))
    wait_until(lambda: answers(port))
    other = free_port()
    config.write_text(f'[http]\nlisten = "127.0.0.1:{other}"\n', encoding="utf-8")

    daemon.signal(signal.SIGHUP)

    wait_until(lambda: answers(other) and not answers(port))
