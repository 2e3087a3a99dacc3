"""Finds a running daemon, or starts one: detached, at low priority, without waiting for it."""

import contextlib
import importlib.util
import logging
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from trackside.wire.locks import daemon_pid

logger = logging.getLogger(__name__)

IDLE_EXIT_S = 300
MAX_LOG_BYTES = 10 << 20

# What a daemon must not inherit: it is no rank, needs no GPU, serves other trainers later, and no
# service manager waits for its word: what it said would count as said by the training.
_TRAINER_NAMES = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "ROLE_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE",
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "LD_PRELOAD",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)
# A requirement of the daemon extra, as metadata has it; the other extras are for a few users.
_OF_DAEMON = re.compile(r"""([A-Za-z0-9._-]+).*;.*\bextra\s*==\s*["']daemon["']""")
_TRAINER_PREFIXES = ("MASTER_", "TORCHELASTIC_", "TORCH_NCCL_", "NCCL_")


def ensure_daemon(directory: Path, environ: Mapping[str, str]) -> bool:
    """Start a daemon if it is installed and none serves ``directory``; True if one was started.

    Two trainers that start one at the same time do no harm: the second daemon finds the lock
    taken and exits.
    """
    try:
        if daemon_pid(directory) is not None:
            return False
        if not _is_installed():
            logger.warning(
                "trackside: no daemon runs, and the daemon side is not installed here; records "
                "wait in %s until one does. Install it: pip install 'trackside[daemon]', in a "
                "clone of trackside pip install '.[daemon]'; or run one of another environment, "
                "and set autostart=False",
                directory,
            )
            return False
        _start(daemon_environment(environ), log_path(environ))
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        logger.warning("trackside: no daemon could be started, run `trackside daemon`: %s", error)
        return False
    return True


def daemon_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a daemon: the trainer's without what makes it a trainer."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _TRAINER_NAMES and not name.startswith(_TRAINER_PREFIXES)
    }


def log_path(environ: Mapping[str, str]) -> Path:
    """Return where a started daemon writes its log."""
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "trackside" / "daemon.log"


def _is_installed() -> bool:
    """Whether a daemon could start; its package is always there, what the extra brings is not."""
    if importlib.util.find_spec("tracksided") is None:
        return False
    try:
        for requirement in metadata.requires("trackside") or ():
            found = _OF_DAEMON.match(requirement)
            if found is not None:
                metadata.version(found.group(1))
    except metadata.PackageNotFoundError:
        return False
    return True


def _start(environ: Mapping[str, str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        with contextlib.suppress(FileNotFoundError):  # another rank was quicker
            log.replace(log.with_name(log.name + ".1"))
    daemon = [sys.executable, "-P", "-m", "tracksided", "daemon"]
    daemon += ["--idle-exit", str(IDLE_EXIT_S), "--low-priority"]
    # The shell leaves at once and init takes the daemon over: no zombie, and nothing to reap.
    with log.open("ab") as output:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *daemon],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=dict(environ),
            start_new_session=True,
            check=True,
        )
