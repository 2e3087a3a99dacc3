"""A training over several nodes, started by torchrun, with a daemon of its own on each node."""

import contextlib
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from namespaces import INTERFACE, Node, torchrun

TRAINER = Path(__file__).parent / "nodes_trainer.py"
FIRST_PORT = 29600  # of torchrun's store; each job has its own
FIRST_HTTP_PORT = 9500
ENVIRON = {"GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1"}
POLL_S = 0.02
DEADLINE_S = 120.0
SCRAPE = """
import sys, time, urllib.request
seconds = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    content = urllib.request.urlopen(sys.argv[1]).read()
    seconds.append(time.perf_counter() - start)
print(len(content), sum(not line.startswith(b"#") for line in content.splitlines()), *seconds)
"""


@dataclass(frozen=True, slots=True)
class StepTime:
    """What a step takes, sampled ones included."""

    wall_ms: float
    cpu_ms: float
    """Of the training thread."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a daemon answers to Prometheus, which asks some times from the first node."""

    num_bytes: int
    num_series: int
    seconds: Sequence[float]
    """Of each time."""


class Job:
    """Usable inside of ``with``. Trainers are ready, and train when they are told."""

    def __init__(self, number: int, nodes: Sequence[Node], every: int, directory: Path) -> None:
        self._number = number
        self._nodes = nodes
        self._every = every
        self._directory = directory / f"job{number}"
        self._memory = Path("/dev/shm") / f"ts-bench-{secrets.token_hex(3)}"  # noqa: S108 - the real thing
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._launchers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start all; `wait` for them."""
        self._directory.mkdir()
        self._memory.mkdir(mode=0o700)
        for index, node in enumerate(self._nodes):
            self._shm(index).mkdir(mode=0o700)
            if self._every:
                self._daemons.append(self._start_daemon(index, node))
            self._launchers.append(self._start_trainer(index, node))
        return self

    def __exit__(self, *failure: object) -> None:
        """Wait for the ranks, unless something failed; daemons end when all is written."""
        self.end()
        for launcher in self._launchers:
            if failure[0] is not None:
                launcher.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(DEADLINE_S)
        for daemon in self._daemons:
            daemon.terminate()
            daemon.wait()
        shutil.rmtree(self._memory)

    def wait(self) -> None:
        """Return when every daemon serves and every rank is ready."""
        self._answer()
        for index in range(len(self._daemons)):
            self._until((self._shm(index) / "status.json").exists)

    def train(self, steps: int) -> StepTime:
        """Train on all ranks; return the mean step of rank 0."""
        self._launchers[0].stdin.write(f"{steps}\n".encode())
        self._launchers[0].stdin.flush()
        wall_ms, cpu_ms = map(float, self._answer().split())
        return StepTime(wall_ms, cpu_ms)

    def settle(self, num_samples: int) -> None:
        """Wait until every node's daemon has written so many steps."""
        for index in range(len(self._daemons)):
            self._until(lambda index=index: self._written(index) >= num_samples)

    def end(self) -> None:
        """Tell the ranks that nothing more is to be trained."""
        with contextlib.suppress(BrokenPipeError):
            self._launchers[0].stdin.close()

    def cpu_ms(self) -> list[float]:
        """Return what the daemon of each node has used, its children included."""
        return [1e3 * sum(cpu_seconds(daemon.pid)) for daemon in self._daemons]

    def scrapes(self, times: int) -> Iterator[Scrape]:
        """Ask each node's daemon for its metrics."""
        for index, node in enumerate(self._nodes[: len(self._daemons)]):
            url = f"http://{node.address}:{FIRST_HTTP_PORT + self._number}/metrics"
            command = self._nodes[0].inside(sys.executable, "-c", SCRAPE, url, str(times))
            deadline = time.monotonic() + DEADLINE_S
            while True:  # the server is a process of its own, which starts after the daemon
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    break
                if time.monotonic() > deadline:
                    sys.exit(f"node {index} does not answer: {done.stderr}")
            num_bytes, num_series, *seconds = done.stdout.split()
            yield Scrape(int(num_bytes), int(num_series), [float(word) for word in seconds])

    def _start_daemon(self, index: int, node: Node) -> subprocess.Popen[bytes]:
        settings = self._directory / f"daemon{index}.toml"
        listen = f"{node.address}:{FIRST_HTTP_PORT + self._number}"
        settings.write_text(f'[http]\nlisten = "{listen}"\nallow_remote = true\n')
        words = ["-P", "-m", "tracksided", "daemon", "--low-priority", "--config", str(settings)]
        log = self._directory / f"daemon{index}.log"
        return node.start([sys.executable, *words], self._environ(index), log)

    def _start_trainer(self, index: int, node: Node) -> subprocess.Popen[bytes]:
        launcher = torchrun(self._nodes, index, port=FIRST_PORT + self._number)
        words = [str(TRAINER), str(self._every), str(self._directory / "run")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} if index == 0 else {}
        log = self._directory / f"trainer{index}.log"
        return node.start([*launcher, *words], self._environ(index), log, **pipes)

    def _environ(self, index: int) -> Mapping[str, str]:
        return ENVIRON | {"TRACKSIDE_SHM_DIR": str(self._shm(index))}

    def _shm(self, index: int) -> Path:
        return self._memory / str(index)

    def _answer(self) -> str:
        answer = self._launchers[0].stdout.readline().decode()
        if not answer:
            log = (self._directory / "trainer0.log").read_text(errors="replace")
            sys.exit(f"the training over {len(self._nodes)} nodes failed:\n{log[-2000:]}")
        return answer

    def _written(self, index: int) -> int:
        run = self._directory / "run"
        history = (run / f"node{index}" if index else run) / "history.jsonl"
        return len(history.read_bytes().splitlines()) if history.exists() else 0

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                log = (self._directory / "daemon0.log").read_text(errors="replace")
                sys.exit(f"a daemon of {len(self._nodes)} nodes is late:\n{log[-2000:]}")
            time.sleep(POLL_S)


def cpu_seconds(pid: int) -> Iterator[float]:
    daemon = psutil.Process(pid)
    for process in (daemon, *daemon.children(recursive=True)):
        times = process.cpu_times()
        yield times.user + times.system
