import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tracksided.demo.processes import DemoFailed, run_training, train_command, train_environment

DEADLINE_S = 30.0


def python(*lines: str) -> list[str]:
    return [sys.executable, "-u", "-S", "-c", "\n".join(lines)]


def ignore(step: int, loss: float) -> None:
    del step, loss


def test_progress_lines_are_reported_and_others_are_not() -> None:
    seen: list[tuple[int, float]] = []
    command = python(
        "print('step 1/60 loss 5.5')", "print('hello')", "print('step 60/60 loss nan')"
    )

    run_training(command, os.environ, lambda step, loss: seen.append((step, loss)))

    assert [step for step, _ in seen] == [1, 60]
    assert seen[0][1] == 5.5


def test_a_failed_training_shows_what_it_said_last() -> None:
    command = python(
        "import sys",
        "for i in range(100): print('line', i)",
        "print('the cause', file=sys.stderr)",
        "sys.exit(3)",
    )

    with pytest.raises(DemoFailed, match="exit code 3") as caught:
        run_training(command, os.environ, ignore)

    assert "the cause" in str(caught.value)
    assert "line 10\n" not in str(caught.value)


def test_the_launchers_own_traceback_does_not_hide_that_of_the_rank() -> None:
    lines = (
        "RuntimeError: the cause",
        "E1124 11:44:32.591000 9430 torch/api.py:1002] failed (exitcode: 1) local_rank: 0",
        *("noise",) * 100,
    )
    command = python(*(f"print({line!r})" for line in lines), "raise SystemExit(1)")

    with pytest.raises(DemoFailed) as caught:
        run_training(command, os.environ, ignore)

    assert "RuntimeError: the cause" in str(caught.value)
    assert str(caught.value).endswith("failed (exitcode: 1) local_rank: 0")


def test_an_interrupted_training_ends_its_process() -> None:
    pids: list[int] = []

    def interrupt(step: int, loss: float) -> None:
        del loss
        pids.append(step)
        raise KeyboardInterrupt

    command = python(
        "import os, signal",
        "print(f'step {os.getpid()}/9 loss 1', flush=True)",
        "signal.pause()",
    )

    with pytest.raises(KeyboardInterrupt):
        run_training(command, os.environ, interrupt)

    assert not psutil.pid_exists(pids[0])


def test_a_training_that_does_not_heed_sigterm_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracksided.demo.processes.END_TIMEOUT_S", 0.01)
    pids: list[int] = []

    def interrupt(step: int, loss: float) -> None:
        pids.append(step)
        pids.append(int(loss))
        raise KeyboardInterrupt

    command = python(
        "import os, signal",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "child = os.fork()",
        "if not child: os.setsid()",
        "else: print(f'step {os.getpid()}/9 loss {child}', flush=True)",
        "while True: signal.pause()",
    )

    with pytest.raises(KeyboardInterrupt):
        run_training(command, os.environ, interrupt)

    # It is not this process that the grandchild is reaped by: dead is enough, listed or not.
    deadline = time.monotonic() + DEADLINE_S
    while not all(is_dead(pid) for pid in pids) and time.monotonic() < deadline:
        os.sched_yield()
    assert all(is_dead(pid) for pid in pids)


def is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_users_settings_of_trackside_do_not_reach_the_demo(tmp_path: Path) -> None:
    environ = {"PATH": "/bin", "TRACKSIDE": "0", "TRACKSIDE_EVERY": "7"}

    env = train_environment(environ, tmp_path, "demo-1")

    assert env["PATH"] == "/bin"
    assert "TRACKSIDE" not in env
    assert "TRACKSIDE_EVERY" not in env
    assert env["TRACKSIDE_SHM_DIR"] == str(tmp_path)
    assert env["TRACKSIDE_RUN"] == "demo-1"


def test_the_training_command_is_bound_to_this_process(tmp_path: Path) -> None:
    command = train_command(60, tmp_path)

    assert command[:4] == [sys.executable, "-m", "tracksided.demo.bound", str(os.getpid())]
    assert command[-4:] == ["--steps", "60", "--out", str(tmp_path)]
