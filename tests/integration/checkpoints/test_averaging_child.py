"""The process that averages: killed, misbehaving, polite, and small."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from averaging_service import Clock, averaged, save, settle
from daemon_process import wait_until
from debris import debris

from tracksided.checkpoints.process import COMMAND
from tracksided.checkpoints.service import RETRY_S, CheckpointService

pytestmark = pytest.mark.integration


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

    wait_until(is_writing)
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


def averaging(
    directory: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> tuple[CheckpointService, int]:
    """Start a service; return it and the pid of its child, which is at work."""
    slow_checkpoints(directory)
    service = make_service(num_threads=1)
    service.watch(directory, run=None)
    for _ in range(3):
        service.poll(clock.tick())
    return service, child_of(directory)


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
    service, pid = averaging(tmp_path, clock, make_service)

    service.close()

    assert not Path(f"/proc/{pid}").exists()
    assert debris(tmp_path) == []
    assert not service.is_busy()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_is_for_the_daemon_alone(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    number: signal.Signals,
) -> None:
    service, pid = averaging(tmp_path, clock, make_service)

    os.kill(pid, number)
    (event,) = settle(service, clock)

    assert event.error is None
    assert torch.equal(averaged(tmp_path)[:3], torch.full((3,), 2.0))


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

    wait_until(lambda: not is_alive(pid))
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


def test_the_child_is_idle_and_first_to_be_killed(
    tmp_path: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    _, pid = averaging(tmp_path, clock, make_service)
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
