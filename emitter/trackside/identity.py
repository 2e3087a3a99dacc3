"""Who this process is among the ranks of a run: run id, rank, local rank, world size.

Asked in this order: an initialized ``torch.distributed``, the launcher's environment
(``torchrun`` and what speaks like it), SLURM, and at last a process alone.

The default run id is equal on all ranks without a word between them. It comes from what they
share: a name that somebody set, the job of the scheduler, or the process that started them all
(its start time and pid). Several nodes without any of these share the address of the first
node, and the id is a hash of it: give ``run=`` to tell two such runs apart.
"""

import hashlib
import multiprocessing
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trackside.wire.segment import MAX_RUN_CHARS

MAX_STEM_CHARS = 60  # leaves room for the time and the hash behind it
# Hexadecimal digits of a hash: beside the time to a second few are enough, alone they name a run.
FEW_DIGITS, MANY_DIGITS = 4, 8
_START_TIME_FIELD = 22  # of /proc/<pid>/stat, counted from 1, see proc(5)
_FIRST_FIELD_AFTER_NAME = 3
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")

# How often each run id was attached in this process: every session is a run of its own.
_attached: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among the others."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int
    attempt: int
    """Restart count of the launcher, 0 for the first start."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that names this process in a run."""

    run: str
    place: Place
    hostname: str
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessBirth:
    """A process and the moment it was started; pids alone are used again."""

    pid: int
    started_at: float
    """Unix time in seconds."""


def identify(environ: Mapping[str, str], *, run: str | None = None) -> Identity:
    """Find out who this process is; ``run`` is a run id that the user gave."""
    place = find_place(environ)
    if run is None:
        script = sys.argv[0] if sys.argv else ""
        is_spawned = multiprocessing.parent_process() is not None and "MASTER_PORT" in environ
        is_one_of_many = place.world_size > 1 or "TORCHELASTIC_RUN_ID" in environ or is_spawned
        is_first = place.local_rank == 0 and _is_started_by_rank_0(environ)
        birth = process_birth(os.getppid() if is_one_of_many and not is_first else os.getpid())
        run = derive_run_id(environ, place, script=script, birth=birth)
    return Identity(run=run, place=place, hostname=socket.gethostname(), pid=os.getpid())


def of_its_own(identity: Identity) -> Identity:
    """Name a second session of one process ``<run>-2``: the daemon serves it beside the first.

    Args:
        identity: as `identify` found it, once for each session.
    """
    _attached[identity.run] += 1
    count = _attached[identity.run]
    if count == 1:
        return identity
    suffix = f"-{count}"
    return replace(identity, run=identity.run[: MAX_RUN_CHARS - len(suffix)] + suffix)


def find_place(environ: Mapping[str, str]) -> Place:
    """Find rank and sizes; a process alone is rank 0 of 1."""
    is_slurm = _is_placed_by_slurm(environ)
    rank = _number(environ, "SLURM_PROCID" if is_slurm else "RANK", 0)
    world = _number(environ, "SLURM_NTASKS" if is_slurm else "WORLD_SIZE", 1)
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        rank, world = distributed.get_rank(), distributed.get_world_size()
    # Without word of the launcher (mp.spawn) all ranks are taken to be on this node.
    local_rank = _number(environ, "SLURM_LOCALID" if is_slurm else "LOCAL_RANK", rank)
    node_rank = _number(environ, "SLURM_NODEID" if is_slurm else "GROUP_RANK", 0)
    attempt = _number(environ, "TORCHELASTIC_RESTART_COUNT", 0)
    if is_slurm:
        local_world = _slurm_tasks(environ.get("SLURM_TASKS_PER_NODE", ""), node_rank, world)
    else:
        local_world = _number(environ, "LOCAL_WORLD_SIZE", world)
    return Place(
        rank=rank,
        local_rank=local_rank,
        world_size=max(world, 1),
        local_world_size=min(max(local_world, 1), max(world, 1)),
        node_rank=node_rank,
        attempt=max(attempt, _number(environ, "SLURM_RESTART_COUNT", 0)),
    )


def derive_run_id(
    environ: Mapping[str, str], place: Place, *, script: str, birth: ProcessBirth
) -> str:
    """Make a run id that is equal on all ranks and tells runs apart.

    ``<script>-<YYYYmmdd-HHMMSS>-<4 hex>`` where nobody gave a name.

    Args:
        environ: of the process.
        place: of the process.
        script: path of the training script.
        birth: of the parent of all ranks, or of this process where it is alone.
    """
    launcher_run = environ.get("TORCHELASTIC_RUN_ID", "")
    is_one_node = place.world_size == place.local_world_size
    # ``torchrun --standalone`` makes up a UUID: the agent, parent of all ranks, tells as much.
    is_made_up = is_one_node and _UUID.fullmatch(launcher_run) is not None
    if launcher_run and launcher_run != "none" and not is_made_up:
        return _fit(launcher_run)
    job = environ.get("SLURM_JOB_ID", "")
    if job:
        step = environ.get("SLURM_STEP_ID", "")
        return _fit(f"slurm-{job}.{step}" if step.isdigit() else f"slurm-{job}")
    is_file = not script.startswith("-")  # `python -c` and `python -` have no name
    stem = _fit(Path(script).stem if is_file else "")[:MAX_STEM_CHARS]
    address = f"{environ.get('MASTER_ADDR', '')}:{environ.get('MASTER_PORT', '')}"
    if not is_one_node:
        return f"{stem}-{_digest(address, MANY_DIGITS)}"
    of_birth = f"{birth.pid}:{birth.started_at:.2f}:{address}"
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(birth.started_at))
    return f"{stem}-{moment}-{_digest(of_birth, FEW_DIGITS)}"


def process_birth(pid: int) -> ProcessBirth:
    """Ask /proc when a process started; now, where it does not tell.

    The answer is the same in every process that asks: the kernel counts in ticks from boot.
    """
    try:
        # The name in parentheses may hold spaces and parentheses itself.
        rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        ticks = int(rest[_START_TIME_FIELD - _FIRST_FIELD_AFTER_NAME])
        boot = _boot_time()
    except (OSError, ValueError, IndexError):
        return ProcessBirth(pid, time.time())
    return ProcessBirth(pid, boot + ticks / os.sysconf("SC_CLK_TCK"))


def _boot_time() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    raise ValueError("/proc/stat has no btime")


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else default


def _is_started_by_rank_0(environ: Mapping[str, str]) -> bool:
    """Whether the script that the user started is rank 0, and started the others itself.

    Lightning does so. It sets these in all of them, and no rank.
    """
    others = ("RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")
    names_a_node = all(name in environ for name in ("NODE_RANK", "LOCAL_RANK", "MASTER_PORT"))
    return names_a_node and not any(name in environ for name in others)


def _is_placed_by_slurm(environ: Mapping[str, str]) -> bool:
    """Whether one task of SLURM is one rank.

    So it is where nobody else speaks of ranks, and where a script copied SLURM's numbers into
    RANK and WORLD_SIZE for ``init_process_group``: those do not tell the node, SLURM does.
    Launchers that a task starts, such as torchrun, say themselves what is local.
    """
    if "SLURM_PROCID" not in environ:
        return False
    if "LOCAL_WORLD_SIZE" in environ or "GROUP_RANK" in environ:
        return False
    rank_is_its = environ.get("RANK") == environ["SLURM_PROCID"]
    world_is_its = environ.get("WORLD_SIZE") == environ.get("SLURM_NTASKS")
    return "RANK" not in environ or (rank_is_its and world_is_its)


def _slurm_tasks(layout: str, node_rank: int, world_size: int) -> int:
    """Read SLURM_TASKS_PER_NODE: ``8(x2),4`` is 8 tasks on two nodes and 4 on a third."""
    nodes: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", layout):
        nodes.extend([int(tasks)] * min(int(times or 1), world_size))
    return nodes[node_rank] if node_rank < len(nodes) else world_size


def _fit(text: str) -> str:
    """Turn any text into a run id."""
    fitted = _UNFIT.sub("_", text).strip("_.")
    if len(fitted) > MAX_RUN_CHARS:
        suffix = f"-{_digest(text, MANY_DIGITS)}"
        fitted = fitted[: MAX_RUN_CHARS - len(suffix)] + suffix
    return fitted or "run"


def _digest(text: str, num_chars: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:num_chars]
