"""Make this process the least important one of the machine, and bind it to its parent."""

import contextlib
import ctypes
import os
import platform
import signal
from pathlib import Path

NICEST = 19
# Environment of a child that computes: one thread per numeric library, besides its own.
SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_PR_SET_PDEATHSIG = 1
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3 << 13
_IOPRIO_SET_CALL = {"x86_64": 251, "aarch64": 30}  # syscall numbers; libc has no wrapper
_FIRST_TO_KILL = "1000"


def become_idle() -> None:
    """Take CPU and disk time only when nobody else wants it, and die first when memory is short.

    Must run before any thread is started: threads inherit it. What the system does not allow
    is left as it is, because a less polite average is still an average.
    """
    os.nice(NICEST)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    number = _IOPRIO_SET_CALL.get(platform.machine())
    if number is not None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_KILL, encoding="ascii")


def leave_terminal_to_parent() -> None:
    """Ignore what a terminal sends to all of its processes; the parent ends us if it wants to."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends.

    Raises:
        SystemExit: it already has.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
