"""Render the systemd units of the daemon for one interpreter and one user; no file is touched."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tracksided.errors import SettingsError
from tracksided.listen_address import ListenAddress

Scope = Literal["system", "user"]
"""Whose service manager runs the daemon: the machine's, or the user's own."""

SYSTEM_DIRECTORY = Path("/etc/systemd/system")
USER_DIRECTORY = Path(".config/systemd/user")

_SYSTEM_TEMPLATE = "trackside@.service"
_SLICE = "trackside.slice"
_USER_UNIT = "trackside.service"
_USER_TEMPLATE = f"user/{_USER_UNIT}"
# systemd reads drop-ins in the order of their names, and the last command holds: that of HTTP
# comes after this one, and what `systemctl edit` writes, override.conf, after both.
_COMMAND_DROP_IN = "command.conf"
_HTTP_DROP_IN = "http.conf"
_DROP_IN = "paths.conf"
_EXEC_START = re.compile(r"^ExecStart=.*$", re.MULTILINE)
# PrivateTmp puts empty directories here; what the daemon shall see is bound back in.
_PRIVATE = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - compared with, nothing is made there
# ProtectHome= makes these read-only, and wins over ReadWritePaths= of the very same path.
_PROTECTED_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
# What Linux and useradd allow, less what would change the name of the unit.
_USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The installation of trackside that a service runs."""

    python: Path
    code: tuple[Path, ...] = ()
    """Directories that the interpreter reads: its prefixes, and where the packages lie."""


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file that systemd reads."""

    path: Path
    text: str
    shared: bool = False
    """True where the services of other users need it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The daemon as a service of one user."""

    scope: Scope
    name: str
    """Name of the unit, such as ``trackside@ada.service``."""

    files: tuple[UnitFile, ...]
    obsolete: tuple[Path, ...] = ()
    """Files of an earlier installation that must not stay beside these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOpening:
    """What a service that serves HTTP needs besides."""

    address: ListenAddress
    is_option: bool
    """Whether the address goes into the command; else it stands in the daemon's settings."""


def units_directory() -> Path:
    """Return where the unit templates lie: in an installed package, or in a checkout.

    Raises:
        SettingsError: in neither; the installation is not complete.
    """
    package = Path(__file__).resolve().parent
    places = (package / "units", package.parents[1] / "systemd")
    for place in places:
        if (place / _SYSTEM_TEMPLATE).is_file():
            return place
    raise SettingsError(
        f"the unit files are missing: neither in {places[0]} nor in {places[1]}; "
        f"install trackside again"
    )


def system_service(
    user: str,
    home: Path,
    program: Program,
    read_write: Sequence[Path] = (),
    shm_dir: Path | None = None,
    *,
    http: HttpOpening | None = None,
) -> Service:
    """Render the instance of the machine's ``trackside@.service`` for one user.

    Args:
        user: name of the account that the daemon runs as.
        home: their home, which the daemon may write.
        program: what the service runs.
        read_write: further directories that the daemon may write, absolute.
        shm_dir: node-local directory, where it is not the default one.
        http: where HTTP is served; None: the service has no network.

    Raises:
        SettingsError: a name or path that cannot stand in a unit.
    """
    if not _USER_NAME.fullmatch(user):
        raise SettingsError(f"user name {user!r} cannot be part of the name of a unit")
    name = f"trackside@{user}.service"
    lines = ["# What the daemon of this user may write, besides /dev/shm.", "[Service]"]
    paths = (home, *read_write, *(() if shm_dir is None else (shm_dir,)))
    if any(path in _PROTECTED_HOMES for path in paths):
        lines.append("# ProtectSystem=strict keeps the other homes read-only.")
        lines.append("ProtectHome=no")
    lines.extend(_writable(path) for path in paths)
    hidden = sorted({path for path in program.code if _is_private(path)})
    lines.extend(f"BindReadOnlyPaths={quoted(f'-{path}')}" for path in hidden)
    lines.extend(_environment(shm_dir))
    templates = units_directory()
    drop_ins = SYSTEM_DIRECTORY / f"{name}.d"
    opening = _http_files(drop_ins, "system", program, http)
    shared = (
        UnitFile(
            SYSTEM_DIRECTORY / file, (templates / file).read_text(encoding="ascii"), shared=True
        )
        for file in (_SYSTEM_TEMPLATE, _SLICE)
    )
    return Service(
        scope="system",
        name=name,
        files=(
            *shared,
            UnitFile(drop_ins / _COMMAND_DROP_IN, _command_drop_in(program)),
            UnitFile(drop_ins / _DROP_IN, "\n".join(lines) + "\n"),
            *opening,
        ),
        obsolete=() if opening else (drop_ins / _HTTP_DROP_IN,),
    )


def user_service(
    config_home: Path,
    program: Program,
    shm_dir: Path | None = None,
    *,
    http: HttpOpening | None = None,
) -> Service:
    """Render ``trackside.service`` for a user's own service manager.

    Args:
        config_home: the user's home; the unit goes to ``.config/systemd/user`` below it.
        program: what the service runs.
        shm_dir: node-local directory, where it is not the default one.
        http: where HTTP is served; None: the service has no network.

    Raises:
        SettingsError: a path that cannot stand in a unit.
    """
    directory = config_home / USER_DIRECTORY
    drop_ins = directory / f"{_USER_UNIT}.d"
    text = _with_command(units_directory() / _USER_TEMPLATE, program.python)
    files = [UnitFile(directory / _USER_UNIT, text)]
    environment = _environment(shm_dir)
    if environment:
        text = "\n".join(("[Service]", *environment)) + "\n"
        files.append(UnitFile(drop_ins / _DROP_IN, text))
    files.extend(_http_files(drop_ins, "user", program, http))
    written = {file.path for file in files}
    possible = (drop_ins / _HTTP_DROP_IN, drop_ins / _DROP_IN)
    return Service(
        scope="user",
        name=_USER_UNIT,
        files=tuple(files),
        obsolete=tuple(path for path in possible if path not in written),
    )


def restart_command(cgroups: str) -> str | None:
    """Say how the service of a daemon is restarted; None where it runs in none of ours.

    A daemon that is asked to end does so in order, and systemd leaves it at that.

    Args:
        cgroups: what ``/proc/<pid>/cgroup`` holds of the daemon.
    """
    for line in cgroups.splitlines():
        unit = line.rpartition("/")[2]
        if unit == _USER_UNIT:
            return f"systemctl --user restart {unit}"
        if unit.startswith("trackside@") and unit.endswith(".service"):
            return f"sudo systemctl restart {unit}"
    return None


def quoted(value: str) -> str:
    """Quote a value for a unit file, so that systemd reads back exactly this.

    Source: systemd.syntax(7), "Quoting", and systemd.unit(5), "Specifiers".

    Raises:
        SettingsError: the value holds a control character, which would end the line.
    """
    if any(ord(letter) < ord(" ") for letter in value):
        raise SettingsError(f"{value!r} holds a control character and cannot stand in a unit")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _http_files(
    directory: Path, scope: Scope, program: Program, http: HttpOpening | None
) -> tuple[UnitFile, ...]:
    """Render the drop-in that opens the network, as far as HTTP needs it."""
    if http is None:
        return ()
    lines = [
        "# The page and /metrics need a socket; nothing else of the unit is opened.",
        "[Service]",
    ]
    if http.is_option:
        lines.append("ExecStart=")
        lines.append(f"{_command(program.python)} --http {http.address.text}")
    lines.append("RestrictAddressFamilies=AF_INET AF_INET6")
    if scope == "system":
        # IPAddressDeny=any stands in the unit: only what is allowed here passes.
        allowed = "localhost" if http.address.is_loopback else "any"
        lines.extend(("PrivateNetwork=no", f"IPAddressAllow={allowed}"))
    return (UnitFile(directory / _HTTP_DROP_IN, "\n".join(lines) + "\n"),)


def _command(python: Path) -> str:
    # The colon keeps systemd from replacing $NAMES in the path.
    return f"ExecStart=:{quoted(str(python))} -P -m tracksided daemon"


def _command_drop_in(program: Program) -> str:
    """Name the interpreter for one user: the template is everybody's."""
    lines = ("# The installation of trackside that this user's daemon is of.", "[Service]")
    return "\n".join((*lines, "ExecStart=", _command(program.python))) + "\n"


def _with_command(template: Path, python: Path) -> str:
    line = _command(python)
    # A function as replacement: a backslash in it has no meaning of its own.
    text, count = _EXEC_START.subn(lambda _: line, template.read_text(encoding="ascii"))
    if count != 1:
        raise SettingsError(f"{template} has {count} lines ExecStart=, expected 1")
    return text


def _writable(path: Path) -> str:
    if not path.is_absolute():
        raise SettingsError(f"{path} is not an absolute path")
    if _is_private(path):
        if ":" in str(path) or path in _PRIVATE:
            raise SettingsError(f"{path} cannot be opened to the service; use another directory")
        return f"BindPaths={quoted(f'-{path}')}"
    # The minus: a directory that is missing when the service starts is no error.
    return f"ReadWritePaths={quoted(f'-{path}')}"


def _is_private(path: Path) -> bool:
    return any(path.is_relative_to(private) for private in _PRIVATE)


def _environment(shm_dir: Path | None) -> tuple[str, ...]:
    if shm_dir is None:
        return ()
    return (f"Environment={quoted(f'TRACKSIDE_SHM_DIR={shm_dir}')}",)
