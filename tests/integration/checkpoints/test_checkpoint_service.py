"""The service with real child processes, real trainers and real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tracksided.checkpoints.process import COMMAND
from tracksided.checkpoints.service import RETRY_S, AverageEvent, CheckpointService

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0

TRAINER = """
import sys, time, torch
from torch import nn
directory, steps = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(1, steps + 1):
    x = torch.randn(32, 8)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(content, f"{directory}/checkpoint_{step}.pt")
"""


class Clock:
    """Monotonic seconds that the test moves: every poll is a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def tick(self, seconds: float = 10.0) -> float:
        self.now += seconds
        return self.now


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


def settle(service: CheckpointService, clock: Clock) -> list[AverageEvent]:
    """Poll until nothing is going on any more."""
    events: list[AverageEvent] = []
    deadline = time.monotonic() + DEADLINE_S
    for _ in range(3):
        events += service.poll(clock.tick())
    while service.is_busy():
        assert time.monotonic() < deadline, service.status()
        events += service.poll(clock.tick(0.01))
        time.sleep(0.005)
    return events


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def save(directory: Path, *steps: int, size: int = 10) -> None:
    for step in steps:
        torch.save({"w": torch.full((size,), float(step))}, directory / f"step_{step}.pt")


def averaged(directory: Path) -> torch.Tensor:
    tensor: torch.Tensor = torch.load(directory / "averaged_model.pt", weights_only=True)["w"]
    return tensor


def debris(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def test_checkpoints_of_a_real_training_are_averaged(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    directory = tmp_path / "checkpoints"
    service = make_service()
    service.watch(directory, run="run-1")
    service.watch(directory, run="run-1")
    assert settle(service, clock) == []
    directory.mkdir()
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(directory), "70"])
    events: list[AverageEvent] = []
    while trainer.poll() is None:
        events += service.poll(clock.tick(0.5))
        time.sleep(0.02)
    assert trainer.returncode == 0

    service.flush(directory)
    events += settle(service, clock)

    last = events[-1]
    assert all(event.error is None for event in events)
    assert (last.directory, last.run, last.step) == (directory, "run-1", 70)
    assert last.output == directory / "averaged_model.pt"
    assert last.sources == tuple(f"checkpoint_{step}.pt" for step in (30, 40, 50, 60, 70))
    states = [torch.load(directory / name, weights_only=True)["model"] for name in last.sources]
    result = torch.load(last.output, weights_only=True)
    assert "optimizer" not in result
    for name, tensor in result["model"].items():
        mean = np.mean([state[name].double().numpy() for state in states], axis=0)
        assert torch.equal(tensor, torch.from_numpy(mean).float())
    assert debris(directory) == []


def test_it_waits_for_the_minimum_and_follows_new_checkpoints(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    service = make_service()
    service.watch(tmp_path, run=None)
    save(tmp_path, 1, 2)
    assert settle(service, clock) == []
    assert not (tmp_path / "averaged_model.pt").exists()

    save(tmp_path, 3)
    (first,) = settle(service, clock)
    assert settle(service, clock) == []
    save(tmp_path, 4, 5, 6, 7)
    (second,) = settle(service, clock)

    assert (first.step, second.step) == (3, 7)
    assert torch.equal(averaged(tmp_path), torch.full((10,), 5.0))
    status = service.status()
    assert json.loads(json.dumps(status)) == status


def test_a_restarted_daemon_does_not_average_the_same_again(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    save(tmp_path, 1, 2, 3)
    before = make_service()
    before.watch(tmp_path, run=None)
    (made,) = settle(before, clock)
    published = (tmp_path / "averaged_model.pt").stat()

    after = make_service()
    after.watch(tmp_path, run=None)

    # Told once, in case nobody was told when it was made.
    assert settle(after, clock) == [replace(made, is_found=True)]
    after.flush(tmp_path)
    assert settle(after, clock) == []
    assert (tmp_path / "averaged_model.pt").stat().st_ino == published.st_ino
    (tmp_path / "averaged_model.pt").unlink()
    save(tmp_path, 3)
    assert len(settle(after, clock)) == 1


def test_a_half_written_checkpoint_waits_until_it_is_whole(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    save(tmp_path, 1, 2, 3, 4)
    whole = (tmp_path / "step_4.pt").read_bytes()
    (tmp_path / "step_4.pt").write_bytes(whole[: len(whole) // 2])
    service = make_service()
    service.watch(tmp_path, run=None)

    (first,) = settle(service, clock)
    (tmp_path / "step_4.pt").write_bytes(whole)
    (second,) = settle(service, clock)

    assert first.sources == ("step_1.pt", "step_2.pt", "step_3.pt")
    assert second.sources == ("step_1.pt", "step_2.pt", "step_3.pt", "step_4.pt")


def slow_checkpoints(directory: Path) -> None:
    """Large enough that the child is seen while it writes."""
    save(directory, 1, 2, 3, size=20_000_000)


def child_of(directory: Path) -> int:
    """Find the pid of the process that is averaging a directory, once it writes."""
    name = ""

    def is_writing() -> bool:
        nonlocal name
        name = next(iter(debris(directory)), "")
        return bool(name)

    wait_until(is_writing, "no temporary file appeared")
    target = str(directory / name)
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                links = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
            except OSError:
                continue  # ended meanwhile, or not ours
            if target in links and int(process.name) != os.getpid():
                return int(process.name)
    pytest.fail("the writer ended before it was found")


def test_a_killed_child_costs_one_event_and_is_tried_again(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    slow_checkpoints(tmp_path)
    (tmp_path / "averaged_model.pt").write_bytes(b"previous")
    service = make_service(num_threads=1)
    service.watch(tmp_path, run=None)
    for _ in range(3):
        service.poll(clock.tick())

    os.kill(child_of(tmp_path), signal.SIGKILL)
    (killed,) = settle(service, clock)

    assert killed.error is not None
    assert "killed by signal 9" in killed.error
    assert debris(tmp_path) == []
    assert (tmp_path / "averaged_model.pt").read_bytes() == b"previous"
    clock.tick(RETRY_S)
    (retried,) = settle(service, clock)
    assert retried.error is None
    assert torch.equal(averaged(tmp_path)[:3], torch.full((3,), 2.0))


def test_closing_ends_the_child_without_debris(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    slow_checkpoints(tmp_path)
    service = make_service(num_threads=1)
    service.watch(tmp_path, run=None)
    for _ in range(3):
        service.poll(clock.tick())
    pid = child_of(tmp_path)

    service.close()

    assert not Path(f"/proc/{pid}").exists()
    assert debris(tmp_path) == []
    assert not service.is_busy()


def test_a_child_dies_with_its_daemon(tmp_path: Path) -> None:
    slow_checkpoints(tmp_path)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tracksided.checkpoints.service import CheckpointService\n"
        "service = CheckpointService(poll_seconds=0.01, num_threads=1)\n"
        "service.watch(Path(sys.argv[1]), run=None)\n"
        "while True: service.poll(time.monotonic()); time.sleep(0.01)\n"
    )
    daemon = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    pid = child_of(tmp_path)

    daemon.kill()
    daemon.wait()

    wait_until(lambda: not is_alive(pid), "the child outlived its daemon")
    assert debris(tmp_path) == []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("import time; time.sleep(1000)", "no sign of life"),
        ("import sys; sys.exit('out of luck')", "exited 1: out of luck"),
        ("print('nonsense')", "exited 0"),
        ("import os; os.abort()", "killed by signal 6"),
    ],
)
def test_a_child_that_misbehaves_is_an_event(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    script: str,
    error: str,
) -> None:
    save(tmp_path, 1, 2, 3)
    service = make_service(command=(sys.executable, "-c", script), hang_seconds=100.0)
    service.watch(tmp_path, run="r")
    for _ in range(3):
        assert service.poll(clock.tick()) == ()
    if "sleep" in script:
        clock.tick(200.0)

    (event,) = settle(service, clock)

    assert event.error is not None
    assert error in event.error
    assert event.run == "r"


def test_a_failure_to_write_is_an_event_and_the_previous_average_stays(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    save(tmp_path, 1, 2, 3, size=5000)
    (tmp_path / "averaged_model.pt").write_bytes(b"previous")
    limited = 'ulimit -f 8; exec "$@"'
    service = make_service(command=("bash", "-c", limited, "limited", *COMMAND))
    service.watch(tmp_path, run=None)

    (event,) = settle(service, clock)

    assert event.error is not None
    assert "previous file stays" in event.error
    assert (tmp_path / "averaged_model.pt").read_bytes() == b"previous"
    assert debris(tmp_path) == []


def test_directories_that_vanish_are_survived(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    directory = tmp_path / "c"
    directory.mkdir()
    save(directory, 1, 2, 3)
    service = make_service()
    service.watch(directory, run=None)
    assert len(settle(service, clock)) == 1
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()

    assert settle(service, clock) == []
    directory.mkdir()
    save(directory, 4, 5, 6)
    (event,) = settle(service, clock)
    assert event.step == 6


def test_the_child_is_idle_and_first_to_be_killed(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    slow_checkpoints(tmp_path)
    service = make_service(num_threads=1)
    service.watch(tmp_path, run=None)
    for _ in range(3):
        service.poll(clock.tick())
    pid = child_of(tmp_path)
    os.kill(pid, signal.SIGSTOP)

    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    os.kill(pid, signal.SIGCONT)


def test_the_averaging_process_imports_no_torch() -> None:
    code = (
        "import sys, tracksided.checkpoints.child, tracksided.checkpoints.service\n"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, size=40_000_000)
    code = (
        "import re, sys; from pathlib import Path\n"
        "from tracksided.checkpoints.job import AverageRequest, run_average\n"
        "run_average(AverageRequest(directory=Path(sys.argv[1])))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text()).group(1))\n"
    )

    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, check=True, text=True)

    assert int(result.stdout) < 80 * 1024


def test_directory_that_is_watched_no_longer_is_left_alone(tmp_path: Path) -> None:
    service = CheckpointService(min_checkpoints=2, poll_seconds=0.01)
    service.watch(tmp_path / "checkpoints", run="r")
    service.unwatch(tmp_path / "checkpoints")
    service.unwatch(tmp_path / "never")

    assert service.poll(0.0) == ()
    assert service.status() == {"directories": []}
    service.close()
