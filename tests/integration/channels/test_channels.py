"""Alerts reach their channels, and no channel holds up the daemon."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tracksided.alerts.catalog import AlertSettings
from tracksided.channels import service
from tracksided.channels.outcome import Outcome
from tracksided.channels.service import AlertSender
from tracksided.cli.alerts import command
from tracksided.reports import Alert

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
# In a process with one thread, as the daemon starts commands: any other thread may take a signal
# that the first one blocks.
SIGNALLED = """
import os, signal, subprocess, sys
from tracksided.channels import hook

start = subprocess.Popen.__init__

def start_and_signal(self, *arguments, **options):
    start(self, *arguments, **options)
    print(self.pid, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen.__init__ = start_and_signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
hook.run(("sleep", "600"), {}, 600.0)
"""
ALERT = Alert(
    rule="loss_spike",
    severity="critical",
    run="r",
    step=7,
    rank=None,
    value=float("nan"),
    threshold=2.0,
    message="loss is high",
    advice="Look.",
    timestamp=1e9,
)


def send(settings: AlertSettings, *alerts: Alert) -> list[Outcome]:
    sender = AlertSender(settings)
    for alert in alerts:
        sender.tell(alert)
    outcomes: list[Outcome] = []
    deadline = time.monotonic() + DEADLINE_S
    while sender.is_busy and time.monotonic() < deadline:
        outcomes += sender.poll(time.monotonic())
        time.sleep(0.01)
    sender.close()
    return outcomes


def test_command_gets_the_alert_as_json(tmp_path: Path) -> None:
    outcomes = send(AlertSettings(command=("tee", "-a", str(tmp_path / "got"))), ALERT, ALERT)

    assert outcomes == [Outcome("command tee", None)] * 2
    first, second = map(json.loads, (tmp_path / "got").read_text().splitlines())
    assert first == second
    assert (first["rule"], first["step"], first["value"]) == ("loss_spike", 7, None)


def test_nothing_in_an_alert_reaches_a_shell(tmp_path: Path) -> None:
    evil = tmp_path / "$(touch pwned); `id`"

    send(AlertSettings(command=("tee", str(evil))), ALERT)

    assert evil.exists()
    assert [path.name for path in tmp_path.iterdir()] == [evil.name]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("/no/such/program",), "cannot be started: No such file or directory"),
        (("sh", "-c", "echo broken >&2; exit 3"), "exit code 3: broken"),
    ],
)
def test_command_that_fails_is_reported(words: tuple[str, ...], error: str) -> None:
    assert send(AlertSettings(command=words), ALERT) == [Outcome(f"command {words[0]}", error)]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_signal_in_the_moment_of_the_start_ends_the_command_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (3, "")
    assert is_gone(int(done.stdout))


def test_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    settings = AlertSettings(command=("sh", "-c", script), command_seconds=1.0)

    outcomes = send(settings, ALERT)

    assert outcomes == [Outcome("command sh", "killed after 1 s")]
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + DEADLINE_S
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_end_of_the_daemon_ends_the_command(tmp_path: Path) -> None:
    words = ("sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600")
    sender = AlertSender(AlertSettings(command=words, command_seconds=600))
    sender.tell(ALERT)
    sender.poll(0.0)
    deadline = time.monotonic() + DEADLINE_S
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)

    sender.close()

    assert is_gone(int((tmp_path / "pid").read_text()))


def test_process_that_hangs_or_dies_costs_its_alert(caplog: pytest.LogCaptureFixture) -> None:
    hung = AlertSender(AlertSettings(command=("true",)), (sys.executable, "-c", "while True: pass"))
    hung.tell(ALERT)
    hung.poll(0.0)
    assert hung.poll(service.START_S) == ()
    assert hung.poll(1000.0) == (Outcome("channels", "did not answer in time"),)

    dying = AlertSender(
        AlertSettings(command=("true",)),
        (sys.executable, "-c", f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})"),
    )
    for _ in range(2):
        dying.tell(ALERT)
    now = 0.0
    deadline = time.monotonic() + DEADLINE_S
    while dying.is_busy and time.monotonic() < deadline:
        dying.poll(now)
        time.sleep(0.01)
    assert caplog.text.count("the alert process was killed by signal 9") == 1


def test_flood_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    sender = AlertSender(AlertSettings(command=("true",)))

    for _ in range(service.MAX_QUEUED + 5):
        sender.tell(ALERT)

    assert sender.num_dropped == 5
    assert caplog.text.count("no more are taken") == 1
    sender.close()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.got.append(json.loads(self.rfile.read(length)))  # type: ignore[attr-defined] # of this test's
        self.send_response(500 if self.path == "/broken" else 200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.got = []  # type: ignore[attr-defined] # of this test's
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_apprise_url_gets_title_text_and_kind(server: Any) -> None:
    pytest.importorskip("apprise")
    url = f"json://127.0.0.1:{server.server_port}/hook"

    outcomes = send(AlertSettings(apprise=(url,)), ALERT)

    assert outcomes == [Outcome("apprise json", None)]
    (got,) = server.got
    assert got["title"] == "trackside: critical loss_spike in run r"
    assert got["message"].startswith("loss is high\n(step 7)")
    assert got["message"].endswith("Look.")
    assert got["type"] == "failure"


def test_one_channel_that_fails_does_not_keep_the_others(server: Any, tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    base = f"json://user:secret@127.0.0.1:{server.server_port}"
    urls = ("nonsense", f"{base}/broken", f"{base}/hook")

    outcomes = send(AlertSettings(apprise=urls, command=("tee", str(tmp_path / "got"))), ALERT)

    assert [(outcome.channel, outcome.error is None) for outcome in outcomes] == [
        ("command tee", True),
        ("apprise", False),
        ("apprise json", False),
        ("apprise json", True),
    ]
    assert "secret" not in repr(outcomes)


def test_missing_package_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracksided.channels import apprise_url  # noqa: PLC0415 - with the package hidden

    monkeypatch.setitem(sys.modules, "apprise", None)

    assert apprise_url.send("json://x", {}).error == apprise_url.MISSING


def test_test_command_tells_of_every_channel(tmp_path: Path) -> None:
    config = tmp_path / "daemon.toml"
    config.write_text(f'[alerts]\ncommand = ["tee", "{tmp_path}/got"]\n')

    result = CliRunner().invoke(command, ["test", "--config", str(config)])

    assert (result.exit_code, result.output) == (0, "command tee: sent\n")
    assert json.loads((tmp_path / "got").read_text())["rule"] == "test"


def test_test_command_fails_where_a_channel_does(tmp_path: Path) -> None:
    config = tmp_path / "daemon.toml"
    config.write_text('[alerts]\ncommand = ["false"]\n')

    result = CliRunner().invoke(command, ["test", "--config", str(config)])

    assert (result.exit_code, result.output) == (1, "command false: exit code 1\n")


def test_test_command_says_each_failure_once_and_in_plain_words(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    config = tmp_path / "daemon.toml"
    config.write_text('[alerts]\napprise = ["nosuch://secret"]\n')

    done = subprocess.run(
        [sys.executable, "-m", "tracksided", "alerts", "test", "--config", config],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "apprise nosuch: not sent: Apprise does not know such a URL; see its list of services\n"
    )


def test_test_command_says_that_there_is_no_channel(tmp_path: Path) -> None:
    config = tmp_path / "daemon.toml"
    config.write_text("")

    result = CliRunner().invoke(command, ["test", "--config", str(config)])

    assert result.exit_code == 1
    assert f"no channel is configured: set apprise or command in [alerts] of {config}" in (
        result.output
    )
