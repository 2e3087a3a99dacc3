"""The faults: each does one bad thing to a `Site`, and mends no more than a user would."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import zmq
from chaos_obstacles import exchanged, filled, read_only, stopped
from chaos_site import Site

HOSTILE_PREFIX = "evil"
MAX_CLOCK_STEP_S = 40 * 86400

Fault = Callable[[Site], None]


def kill_daemon(site: Site) -> None:
    site.daemon.kill()
    time.sleep(site.random.uniform(0, 0.5))
    site.start_daemon()


def stop_daemon(site: Site) -> None:
    with stopped(site.daemon.pid, site.random.uniform(0.1, 1.0)):
        pass


def restart_daemon(site: Site) -> None:
    """End it in order, once it is up: before its handlers stand, SIGTERM just kills it."""
    deadline = time.monotonic() + 60
    while not (site.node / "status.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if site.status().get("pid") == site.daemon.pid:
        site.daemon_codes.append(site.daemon.stop())
        site.start_daemon()


def kill_worker(site: Site) -> None:
    for pid in site.worker_pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stop_worker(site: Site) -> None:
    for pid in site.worker_pids():
        with stopped(pid, site.random.uniform(0.1, 1.0)):
            pass


def kill_helper(site: Site) -> None:
    """Kill the process that serves HTTP, or the one that reads the machine."""
    pid = site.helper_pid(site.random.choice(("http", "monitors")))
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_rank(site: Site) -> None:
    """Kill one rank; the others of its run go on."""
    run = site.random.choice(site.runs)
    if run.running:
        site.random.choice(run.running).kill()


def kill_run(site: Site) -> None:
    run = site.random.choice(site.runs)
    for rank in run.running:
        rank.kill()


def kill_training(site: Site) -> None:
    if site.real and site.real[-1].process.poll() is None:
        site.real[-1].was_killed = True
        site.real[-1].process.kill()
        site.real[-1].process.wait()


def stop_rank(site: Site) -> None:
    ranks = [rank for run in site.runs for rank in run.running]
    if ranks:
        with stopped(site.random.choice(ranks).process.pid, site.random.uniform(0.1, 1.0)):
            pass


def full_disk(site: Site) -> None:
    with filled(site.disk, site.random.uniform(0.2, 1.5)):
        if site.random.random() < 0.3:
            kill_daemon(site)


def full_shared_memory(site: Site) -> None:
    with filled(site.shm, site.random.uniform(0.2, 1.5)):
        if site.random.random() < 0.3:
            kill_daemon(site)


def read_only_outputs(site: Site) -> None:
    """Let nothing be opened for writing or made below the outputs; what is open stays so."""
    with read_only(site.disk, site.random.uniform(0.2, 1.5)):
        if site.random.random() < 0.3:
            kill_daemon(site)


def outputs_moved_away(site: Site) -> None:
    """Put a file where the outputs of a run were, and take it away again."""
    run = site.random.choice(site.runs)
    if run.save_dir.is_dir():
        with exchanged(run.save_dir, site.random.uniform(0.2, 1.5)):
            if site.random.random() < 0.3:
                kill_daemon(site)


def set_clock(site: Site) -> None:
    """Set the clock of all trainers and daemons that follow and run."""
    if site.clock is not None:
        site.clock.set(site.random.randint(-MAX_CLOCK_STEP_S, MAX_CLOCK_STEP_S))


def hostile_segment(site: Site) -> None:
    """Put something into the directory that looks like a segment."""
    path = site.node / f"{HOSTILE_PREFIX}.r0.1.n{site.random.getrandbits(32)}.ring"
    models = sorted(site.node.glob("[!e]*.ring"))
    match site.random.randrange(6):
        case 0:
            path.write_bytes(site.random.randbytes(9000))
        case 1:
            path.symlink_to("/etc/passwd")
        case 2:
            os.mkfifo(path)
        case 3:
            path.mkdir()
        case 4 if models:
            _damaged_copy(site, models[-1], path)
        case _:
            path.touch()
    if not path.is_symlink():
        path.chmod(0o600)


def flood_doorbell(site: Site) -> None:
    """Ring with big messages from a stranger."""
    context = zmq.Context()
    try:
        bell = context.socket(zmq.PUSH)
        bell.setsockopt(zmq.LINGER, 0)
        bell.connect(f"ipc://{site.node / 'daemon.sock'}")
        for _ in range(200):
            with contextlib.suppress(zmq.Again):
                bell.send(bytes(10_000), zmq.NOBLOCK)
        time.sleep(0.1)
    finally:
        context.destroy(linger=0)


def remove_socket(site: Site) -> None:
    (site.node / "daemon.sock").unlink(missing_ok=True)


def _damaged_copy(site: Site, model: Path, path: Path) -> None:
    """Copy a live segment with some bytes of its header page changed."""
    with contextlib.suppress(OSError):  # it may go, or shared memory be too small
        shutil.copyfile(model, path)
        with path.open("r+b") as file:
            for _ in range(site.random.randrange(4)):
                file.seek(site.random.randrange(4096))
                file.write(site.random.randbytes(1))


FAULTS: Mapping[str, tuple[Fault, int]] = {
    "kill -9 daemon": (kill_daemon, 6),
    "stop daemon": (stop_daemon, 3),
    "restart daemon": (restart_daemon, 3),
    "kill -9 worker": (kill_worker, 3),
    "stop worker": (stop_worker, 2),
    "kill -9 HTTP or monitor": (kill_helper, 2),
    "kill -9 one rank": (kill_rank, 4),
    "kill -9 whole run": (kill_run, 3),
    "kill -9 real training": (kill_training, 1),
    "stop a rank": (stop_rank, 2),
    "full disk": (full_disk, 3),
    "full shared memory": (full_shared_memory, 3),
    "read-only outputs": (read_only_outputs, 2),
    "outputs moved away": (outputs_moved_away, 2),
    "clock set": (set_clock, 2),
    "hostile segment": (hostile_segment, 3),
    "flooded doorbell": (flood_doorbell, 1),
    "removed socket": (remove_socket, 1),
}
"""Name to fault and how often it comes, relative to the others."""


def possible(site: Site) -> dict[str, tuple[Fault, int]]:
    """Return the faults that this machine and site allow."""
    missing: set[str] = set()
    if not site.has_small_disk:
        missing |= {"full disk", "read-only outputs"}
    if not site.has_small_shm:
        missing.add("full shared memory")
    if site.clock is None:
        missing.add("clock set")
    if not site.bare:
        missing.add("kill -9 real training")
    return {name: entry for name, entry in FAULTS.items() if name not in missing}
