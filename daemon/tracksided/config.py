"""TOML to typed settings; unknown keys are errors that name the nearest known key."""

import difflib
import math
import stat
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from tracksided.alerts.catalog import AlertSettings
from tracksided.errors import SettingsError
from tracksided.listen_address import parse_listen_address
from tracksided.monitors.settings import MonitorSettings

SYSTEM_CONFIG = Path("/etc/trackside/daemon.toml")
USER_CONFIG = Path(".config/trackside/daemon.toml")

DEFAULT_LAST = 5
DEFAULT_MINIMUM = 3
DEFAULT_POLL_S = 5.0  # of checkpoint directories
MAX_POLL_S = 3600.0  # a record whose doorbell was lost waits so long; poll(2) knows no infinity
MAX_INTEGER = 2**63 - 1  # what the system's calls take


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Section ``[workers]``: the processes that analyse and draw."""

    count: int = 1
    """How many; each costs about 150 MB once it draws."""

    job_seconds: float = 120.0
    """A step that takes longer costs its worker, and is reported without pictures."""

    memory_bytes: int = 4 << 30
    """Limit on the private memory of each worker."""

    shed_pictures_at: int = 16
    """Steps waiting at which pictures are left out."""

    shed_statistics_at: int = 48
    """Steps waiting at which attention statistics are left out too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """Section ``[checkpoints]``: the directories that are averaged."""

    directories: tuple[str, ...] = ()
    """Watched always; runs announce theirs by themselves."""

    last: int = DEFAULT_LAST
    """How many of the newest are averaged."""

    min_checkpoints: int = DEFAULT_MINIMUM
    """From how many complete checkpoints on."""

    poll_seconds: float = DEFAULT_POLL_S
    """How often the directories are looked at where no file-system events come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Section ``[http]``: the page, the metrics and the health check."""

    listen: str = ""
    """``HOST:PORT``; empty: no HTTP at all."""

    allow_remote: bool = False
    """Whether ``listen`` may be an address that other machines reach. There is no password."""

    hosts: tuple[str, ...] = ()
    """Further names by which browsers may ask for it, such as that of a proxy."""

    def __post_init__(self) -> None:
        """Refuse an address that cannot be used, or that is open to others by mistake."""
        if not self.listen:
            return
        address = parse_listen_address(self.listen)
        if not (address.is_loopback or self.allow_remote):
            raise SettingsError(
                f"http.listen is {self.listen!r}: other machines reach that address, and nobody "
                f"is asked for a password; use 127.0.0.1, or set http.allow_remote = true"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of the daemon."""

    poll_seconds: float = 1.0
    """How often the node-local directory is looked at when no doorbell rings."""

    join_grace_seconds: float = 20.0
    """How long a step waits for a local rank that has not appeared yet."""

    max_lag_seconds: float = 60.0
    """How long a step waits for a live local rank that lags behind."""

    workers: WorkerSettings = field(default_factory=WorkerSettings)
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    monitors: MonitorSettings = field(default_factory=MonitorSettings)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        positive = {
            "poll_seconds": self.poll_seconds,
            "workers.count": self.workers.count,
            "workers.job_seconds": self.workers.job_seconds,
            "workers.memory_bytes": self.workers.memory_bytes,
            "checkpoints.last": self.checkpoints.last,
            "checkpoints.min_checkpoints": self.checkpoints.min_checkpoints,
            "checkpoints.poll_seconds": self.checkpoints.poll_seconds,
            "monitors.every_seconds": self.monitors.every_seconds,
        }
        for name, value in positive.items():
            if value <= 0:
                raise SettingsError(f"{name} is {value}, expected a number above 0")
        if self.poll_seconds > MAX_POLL_S:
            raise SettingsError(
                f"poll_seconds is {self.poll_seconds:g}, expected at most {MAX_POLL_S:g}"
            )
        for name in self.checkpoints.directories:
            _require_directory(name)
        if self.checkpoints.min_checkpoints > self.checkpoints.last:
            raise SettingsError(
                f"checkpoints.min_checkpoints is {self.checkpoints.min_checkpoints}, more than "
                f"checkpoints.last ({self.checkpoints.last}): nothing would ever be averaged"
            )


def _require_directory(name: str) -> None:
    """Refuse what cannot be a directory of checkpoints on this machine."""
    if "://" in name:
        raise SettingsError(
            f"checkpoints.directories holds {name!r}: the daemon watches directories only; run "
            "`trackside average` with the URL from a timer instead"
        )
    try:
        Path(name).expanduser()
    except RuntimeError as error:
        raise SettingsError(
            f"checkpoints.directories holds {name!r}: nobody knows that home directory; write "
            "the path out"
        ) from error


def public_settings(settings: Settings) -> dict[str, Any]:
    """Return all settings as plain values, without what is secret: the URLs of channels."""
    document = asdict(settings)
    document["alerts"]["apprise"] = [
        f"{url.partition('://')[0]}://..." for url in settings.alerts.apprise
    ]
    return document


def home_directory() -> Path | None:
    """Return the user's home, None where nothing names one: a number without an account."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def default_config_paths(home: Path | None) -> tuple[Path, ...]:
    """Return the places that are looked at when no file is named; later ones win."""
    return (SYSTEM_CONFIG,) if home is None else (SYSTEM_CONFIG, home / USER_CONFIG)


def load_settings(explicit: Path | None, home: Path | None) -> Settings:
    """Read the named file, or the default ones that exist.

    Raises:
        SettingsError: a file cannot be read or holds a key or value that cannot be used.
    """
    if explicit is not None:
        return parse_settings([(str(explicit), _read(explicit))])
    found = [path for path in default_config_paths(home) if _is_file(path)]
    return parse_settings([(str(path), _read(path)) for path in found])


def parse_settings(documents: Sequence[tuple[str, Mapping[str, Any]]]) -> Settings:
    """Merge parsed TOML documents, the later over the earlier, into settings.

    Raises:
        SettingsError: a key is unknown, or a value has the wrong type or range.
    """
    merged: dict[str, Any] = {}
    for name, document in documents:
        _build(Settings, document, name)  # an error shall name the file that holds it
        merged = _merge(merged, document)
    return typing.cast("Settings", _build(Settings, merged, "settings"))


def _is_file(path: Path) -> bool:
    """Tell whether a file is there; one that may not be looked for is an error, not absent."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SettingsError(
            f"cannot look for {path}: {error.strerror}; do this as root, or as its owner"
        ) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one document over another, table by table, key by key."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _build(kind: type[Any], document: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = [item.name for item in fields(kind)]
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"{where}: unknown key {key!r}; {hint}")
        values[key] = _convert(hints[key], value, f"{where}: {key}")
    return kind(**values)


def _convert(expected: Any, value: Any, where: str) -> Any:
    if is_dataclass(expected):
        if not isinstance(value, dict):
            raise SettingsError(f"{where} is {value!r}, expected a table")
        return _build(typing.cast("type[Any]", expected), value, where)
    if isinstance(expected, types.GenericAlias):  # tuple[str, ...] is the only one
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SettingsError(f"{where} is {value!r}, expected a list of strings")
        return tuple(value)
    if type(value) is int and abs(value) > MAX_INTEGER:
        raise SettingsError(f"{where} is beyond {MAX_INTEGER}, expected a smaller number")
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise SettingsError(f"{where} is {value!r}, expected {expected.__name__}")
    if expected is float and math.isnan(value):
        raise SettingsError(f"{where} is nan, expected a number")
    return value
