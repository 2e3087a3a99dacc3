"""What the checks are told of the machine. Unknown is None."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceFacts:
    """The file system under a path."""

    kind: str | None
    """``tmpfs``, ``ext4``, ..."""

    total_bytes: int
    free_bytes: int
    """For this user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFacts:
    """What stands at the place of the node-local directory."""

    path: Path
    exists: bool
    is_directory: bool
    """False for a link, too."""

    owner: int | None
    mode: int | None
    """Permission bits."""

    can_be_made: bool
    """Whether it is there, or its parent is and may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFacts:
    """A directory into which outputs go, or its nearest parent that exists."""

    path: Path
    in_the_way: Path | None
    """What stands where this directory, or one above it, should be."""

    is_writable: bool
    space: SpaceFacts | None
    problem: str | None
    """What the daemon says of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is missing of a run that the daemon serves."""

    name: str
    drops: Mapping[str, int]
    """Samples that its trainers could not publish, by cause."""

    num_shed: int
    """Steps whose pictures were left out under load."""

    num_failed: int
    """Steps whose analysis failed."""

    defect: str | None
    """Why it is not served any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageFacts:
    """A checkpoint directory that the daemon watches."""

    directory: Path
    error: str | None
    """Why the last averaging failed."""

    missing: int
    """Usable checkpoints that it waits for."""

    kept: int | None
    """What the training's rotation leaves, where that is not enough."""

    refused: tuple[tuple[str, str], ...]
    """Names of checkpoints that cannot be used, and why."""

    polled_because: str | None
    """Why no file-system events are heard; None where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """The daemon of this user on this node."""

    pid: int
    """0 where it runs in another PID namespace."""

    restart: str | None
    """Command that restarts it as the service that it is; None where it is none."""

    version: str | None
    silent_s: float | None
    """Seconds since its last sign of life; None before its first."""

    refused: Mapping[str, str]
    """File name to reason of segments that it does not read."""

    problems: tuple[str, ...]
    """Of ranks that it does not follow any more."""

    runs: tuple[RunFacts, ...]
    averages: tuple[AverageFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFacts:
    """The page and the metrics, where they are switched on."""

    url: str
    is_taken: bool
    """Something answers at the port."""

    is_ours: bool
    """What answers is a daemon's health check."""

    problem: str | None
    """What the daemon says of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was looked at."""

    uid: int
    user: str
    node: DirectoryFacts
    socket_path: Path
    space: SpaceFacts | None
    """Of the file system that holds the node-local directory."""

    num_segments: int
    daemon: DaemonFacts | None
    has_logind: bool
    removes_ipc: bool
    lingers: bool
    has_gpu: bool
    """The kernel knows an NVIDIA device."""

    num_gpus: int | None
    """As NVML counts; None where it cannot be asked."""

    nvml_error: str | None
    soft_open_files: int
    hard_open_files: int
    python: tuple[int, int, int]
    versions: Mapping[str, str | None]
    """Distribution to version, None where it is not installed."""

    outputs: tuple[OutputFacts, ...]
    http: HttpFacts | None
    """None where HTTP is off."""

    settings_error: str | None
    """Why the settings cannot be used."""
