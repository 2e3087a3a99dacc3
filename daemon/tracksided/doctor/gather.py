"""Looks at the machine; changes nothing. What cannot be found out is None."""

import os
import pwd
import resource
import stat
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from trackside.wire import segment
from trackside.wire.doorbell import SOCKET_NAME
from trackside.wire.locks import daemon_pid
from tracksided.config import Settings, home_directory, load_settings
from tracksided.doctor.asking import ask_page
from tracksided.doctor.facts import DirectoryFacts, Facts, OutputFacts, SpaceFacts
from tracksided.doctor.serving import daemon_facts, objects, output_problem, text
from tracksided.errors import SettingsError
from tracksided.listen_address import parse_listen_address
from tracksided.logind import lingers, removes_ipc
from tracksided.monitors.gpus import count_gpus
from tracksided.service_units import restart_command
from tracksided.sinks.json_file import Json
from tracksided.status_file import read_status

DISTRIBUTIONS = ("trackside", "torch", "numpy", "pyzmq", "msgpack", "matplotlib", "tensorboard")
LOGIND_STATE = Path("/run/systemd/users")  # made by logind alone
NVIDIA_DEVICE = Path("/dev/nvidiactl")
DEFAULT_OUTPUTS = Path("trackside_logs")


def gather(directory: Path, outputs: Sequence[Path], working_dir: Path) -> Facts:
    """Collect the facts.

    Args:
        directory: node-local.
        outputs: directories named by the user, besides those of the runs that are served.
        working_dir: where outputs go if nobody says otherwise.
    """
    pid = daemon_pid(directory)
    status = None if pid is None else read_status(directory)
    runs = objects(status, "runs")
    named = dict.fromkeys(outputs)
    served = {Path(str(run["directory"])): output_problem(run) for run in runs}
    places: Mapping[Path, str | None] = {**named, **served} or {working_dir / DEFAULT_OUTPUTS: None}
    settings, settings_error = _settings()
    url = _page_url(status, settings)
    num_gpus, nvml_error = count_gpus()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    user = _user_name()
    return Facts(
        uid=os.geteuid(),
        user=user,
        node=_directory(directory),
        socket_path=directory / SOCKET_NAME,
        space=_space(directory),
        num_segments=len(segment.scan(directory)),
        daemon=None if pid is None else daemon_facts(pid, _restart_command(pid), status),
        has_logind=LOGIND_STATE.is_dir(),
        removes_ipc=removes_ipc(),
        lingers=lingers(user),
        has_gpu=NVIDIA_DEVICE.exists(),
        num_gpus=num_gpus,
        nvml_error=nvml_error,
        soft_open_files=_limit(soft),
        hard_open_files=_limit(hard),
        python=sys.version_info[:3],
        versions={name: _version(name) for name in DISTRIBUTIONS},
        outputs=tuple(_output(path, problem) for path, problem in places.items()),
        http=None if url is None else ask_page(url, status),
        settings_error=settings_error,
    )


def _restart_command(pid: int) -> str | None:
    try:
        cgroups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended, or lives in another PID namespace
        return None
    return restart_command(cgroups)


def _settings() -> tuple[Settings, str | None]:
    try:
        return load_settings(None, home_directory()), None
    except SettingsError as error:
        return Settings(), str(error)


def _page_url(status: Mapping[str, Json] | None, settings: Settings) -> str | None:
    """Return where the daemon serves its page, or would if it ran; None where HTTP is off."""
    if status is not None:
        said = status.get("http")
        return text(said.get("url")) if isinstance(said, dict) else None
    return parse_listen_address(settings.http.listen).url if settings.http.listen else None


def _directory(path: Path) -> DirectoryFacts:
    try:
        found = path.lstat()
    except OSError:
        return DirectoryFacts(
            path=path,
            exists=False,
            is_directory=False,
            owner=None,
            mode=None,
            can_be_made=_existing(path) == path.parent and _may_be_written(path.parent),
        )
    return DirectoryFacts(
        path=path,
        exists=True,
        is_directory=stat.S_ISDIR(found.st_mode),
        owner=found.st_uid,
        mode=stat.S_IMODE(found.st_mode),
        can_be_made=True,
    )


def _output(path: Path, problem: str | None) -> OutputFacts:
    place = _existing(path)
    return OutputFacts(
        path=path,
        in_the_way=None if place.is_dir() else place,
        is_writable=_may_be_written(place),
        space=_space(path),
        problem=problem,
    )


def _may_be_written(place: Path) -> bool:
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _space(path: Path) -> SpaceFacts | None:
    place = _existing(path)
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return SpaceFacts(
        kind=_file_system(place),
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
    )


def _existing(path: Path) -> Path:
    """Return the path, or the nearest of its parents that is known to exist."""
    # Not Path.exists(), which raises where a directory may not be entered.
    return next((place for place in (path, *path.parents) if os.path.exists(place)), Path("/"))  # noqa: PTH110 - see above


def _file_system(path: Path) -> str | None:
    resolved = path.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[p] for p in (resolved, *resolved.parents) if p in mounts), None)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run under an id without a name
        return str(os.geteuid())


def _limit(value: int) -> int:
    return sys.maxsize if value == resource.RLIM_INFINITY else value
