"""A node directory and outputs as a daemon writes them, and the HTTP process that shows them."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon_process import wait_until

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WebSite:
    """Writes what the HTTP process reads, and asks it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "node"
        self.directory.mkdir(mode=0o700)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **changes: Any) -> None:
        """Start the server; return when it answers, or has ended."""
        request = {
            "directory": str(self.directory),
            "host": "127.0.0.1",
            "port": self.port,
            "hosts": [],
            "parent": os.getpid(),
            **changes,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tracksided.web.server", json.dumps(request)]
        )
        wait_until(lambda: answers(self.port, str(request["host"])) or not self.is_running)

    def exit_code(self) -> int:
        assert self._process is not None
        return self._process.wait(TIMEOUT_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def is_running(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    @property
    def num_open_files(self) -> int:
        """Of the server."""
        assert self._process is not None
        return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        return get(self.port, path, method=method, **headers)

    def write_status(self, *runs: Mapping[str, Any], **changes: Any) -> None:
        content = {
            "schema": 1,
            "pid": 4711,
            "updated_at": time.time(),
            "version": "1.2.3",
            "started_at": 1000.0,
            "runs": list(runs),
            "refused": {},
            "checkpoints": {"directories": []},
            "averages": {"published": 0, "failed": 0},
            "workers": {"pids": [1, 2], "deaths": 3},
        }
        # As the daemon does it: readers see the old file or the new one.
        temporary = self.directory / "status.json.new"
        temporary.write_text(json.dumps(content | changes), encoding="utf-8")
        temporary.replace(self.directory / "status.json")

    def write_totals(
        self, name: str, *, state: str, step: int, directory: str | None = None, **changes: Any
    ) -> None:
        """Write what the daemon writes last, before a run leaves the status."""
        content = {"schema": 1, "run": name, "state": state, "final": {"step": step}, "ranks": []}
        path = self.root / (directory or name) / "training_statistics.json"
        path.write_text(json.dumps(content | changes), encoding="utf-8")

    def run_directory(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


def make_run(name: str, directory: Path, **changes: Any) -> dict[str, Any]:
    """One entry of ``runs`` in ``status.json``."""
    run = {
        "run": name,
        "state": "running",
        "directory": str(directory),
        "world_size": 1,
        "last_step": 120,
        "committed_step": 100,
        "waiting": 2,
        "late": 0,
        "shed": 0,
        "failed": 0,
        "problem": None,
        "ranks": [make_rank(0)],
    }
    return run | changes


def make_rank(rank: int, **changes: Any) -> dict[str, Any]:
    entry = {
        "rank": rank,
        "pid": 100 + rank,
        "alive": True,
        "last_step": 120,
        "lag_bytes": 4096,
        "drops": {},
        "corrupt": 0,
        "torn": 0,
        "problem": None,
    }
    return entry | changes


def make_line(name: str, step: int, **changes: Any) -> dict[str, Any]:
    """One line of ``history.jsonl``."""
    line = {
        "schema": 1,
        "run": name,
        "step": step,
        "timestamp": 1_700_000_000.0 + step,
        "folder": f"step_{step}",
        "loss": 4.0 / step,
        "lr": 0.001,
        "norm_before_clip": 2.0,
        "norm_after_clip": 1.0,
        "step_seconds": 0.25,
        "ranks": [{"rank": 0, "loss": 4.0 / step, "step_seconds": 0.25}],
        "attention": {
            "encoder": [],
            "decoder": [
                {"layer": 0, "type": "self_attention", "entropy": 1.5, "max_logit": 7.0},
            ],
        },
    }
    return line | changes


def append(path: Path, *lines: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.connect_ex((host, port)) == 0


def get(port: int, path: str, *, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    id: str
    data: Any


class EventReader:
    """Reads a stream of server-sent events as a browser does."""

    def __init__(self, port: int, runs: str, last_event_id: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self._connection.request("GET", f"/events?runs={runs}", headers=headers)
        self._response = self._connection.getresponse()
        self.status = self._response.status

    def next(self, *names: str) -> Event:
        """Return the next event of one of these names."""
        while True:
            event = self._next()
            if event.name in names:
                return event

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def _next(self) -> Event:
        fields: dict[str, str] = {}
        while True:
            line = self._response.readline().decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                return Event(fields["event"], fields["id"], json.loads(fields["data"]))
            else:
                fields.clear()
