"""`trackside service`: the daemon as a systemd service."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click

import trackside.wire
import tracksided
from trackside.wire.locks import daemon_pid, name_holder
from trackside.wire.segment import SHM_DIR_VARIABLE
from tracksided.config import load_settings
from tracksided.errors import OutputError, SettingsError
from tracksided.listen_address import DEFAULT, parse_listen_address
from tracksided.logind import lingers
from tracksided.service_manager import ServiceManager, remove_units, write_units
from tracksided.service_units import (
    HttpOpening,
    Program,
    Scope,
    Service,
    system_service,
    user_service,
)

_HELP = {"help_option_names": ["-h", "--help"]}
# Python starts in well under a second; a home on a sleepy network file system does not.
_IMPORT_TIMEOUT_S = 60

_Function = TypeVar("_Function", bound=Callable[..., object])


def _whose(function: _Function) -> _Function:
    """Add the options that say which service is meant."""
    scope = click.option(
        "--system/--user",
        "system",
        default=False,
        help="The machine's systemd, or the user's own (default).",
    )
    account = click.option(
        "--for", "account", metavar="USER", help="Who the daemon serves; needed with --system."
    )
    return scope(account(function))


_read_write_option = click.option(
    "--read-write",
    "read_write",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A directory outside the user's home that the daemon may write; repeatable.",
)


_http_option = click.option(
    "--http",
    is_flag=False,
    flag_value=DEFAULT,
    metavar="[HOST:PORT]",
    help=f"Serve the page and /metrics there; without value: {DEFAULT}. The default is what the "
    "user's daemon.toml says.",
)


@click.group(name="service", context_settings=_HELP)
def command() -> None:
    """Run the daemon as a systemd service: from login on, or from the start of the machine."""


@command.command(context_settings=_HELP)
@_whose
@_read_write_option
@_http_option
@click.option("--start/--no-start", default=True, help="Start it now, or only from then on.")
@click.option("--linger", is_flag=True, help="Also run `loginctl enable-linger` for the user.")
def install(
    *,
    system: bool,
    account: str | None,
    read_write: tuple[Path, ...],
    http: str | None,
    start: bool,
    linger: bool,
) -> None:
    """Write the units, enable the service and start it."""
    scope: Scope = "system" if system else "user"
    entry = _account(scope, account)
    opening = _http_opening(scope, http, entry)
    service = _service(scope, entry, read_write, opening)
    manager = ServiceManager(scope, os.environ)
    _check_rights(scope)
    if scope == "system":
        _check_interpreter(entry)
    write_units(service)
    for file in service.files:
        click.echo(f"wrote {file.path}")
    if linger:
        manager.enable_linger(entry.pw_name)
    try:
        manager.start(service, now=start)
    except OutputError as error:
        raise OutputError(f"{error}{_who_serves_already(entry)}") from error
    click.echo(f"{service.name} is enabled" + (" and runs" if start else ""))
    if opening is not None:
        click.echo(f"it serves HTTP at {opening.address.url}")
    _say_limits(scope, entry, read_write)


@command.command(context_settings=_HELP)
@_whose
def uninstall(*, system: bool, account: str | None) -> None:
    """Stop the service and remove its units."""
    scope: Scope = "system" if system else "user"
    service = _installed_service(scope, account)
    manager = ServiceManager(scope, os.environ)
    _check_rights(scope)
    if not any(file.path.exists() for file in service.files if not file.shared):
        raise SettingsError(f"{service.name} is not installed")
    manager.stop(service)
    for path in remove_units(service):
        click.echo(f"removed {path}")
    manager.reload()


@command.command(context_settings=_HELP)
@_whose
@_read_write_option
@_http_option
def show(
    *, system: bool, account: str | None, read_write: tuple[Path, ...], http: str | None
) -> None:
    """Print the units that install would write; nothing is changed."""
    scope: Scope = "system" if system else "user"
    entry = _account(scope, account)
    service = _service(scope, entry, read_write, _http_opening(scope, http, entry))
    click.echo("\n".join(f"# {file.path}\n{file.text}" for file in service.files), nl=False)


def _account(scope: Scope, account: str | None) -> pwd.struct_passwd:
    name = _name_for_system(scope, account)
    if name is None:
        return _own_account()
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise SettingsError(f"there is no user {name!r} on this machine") from None


def _name_for_system(scope: Scope, account: str | None) -> str | None:
    """Return the name that --for gives; None for one's own service, which takes none."""
    if scope == "user":
        if account is not None:
            raise SettingsError("--for belongs to --system; --user is always about yourself")
        return None
    if account is None:
        raise SettingsError("--system needs --for USER: whose trainings shall the daemon serve?")
    return account


def _own_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:  # as in a container that runs as some number
        raise SettingsError(
            f"user {os.getuid()} has no account on this machine, and systemd serves accounts only; "
            "start the daemon with `trackside daemon`"
        ) from None


def _http_opening(scope: Scope, option: str | None, entry: pwd.struct_passwd) -> HttpOpening | None:
    """Return where the service shall serve HTTP: as asked for, else as the user's settings say."""
    home = Path.home() if scope == "user" else Path(entry.pw_dir)
    settings = load_settings(None, home).http
    if option is not None:
        settings = replace(settings, listen=option)
    if not settings.listen:
        return None
    address = parse_listen_address(settings.listen)
    return HttpOpening(address=address, is_option=option is not None)


def _service(
    scope: Scope,
    entry: pwd.struct_passwd,
    read_write: tuple[Path, ...],
    http: HttpOpening | None = None,
) -> Service:
    packages = (Path(package.__file__ or "") for package in (trackside.wire, tracksided))
    program = Program(
        python=Path(sys.executable),
        code=(Path(sys.prefix), Path(sys.base_prefix), *(path.parents[1] for path in packages)),
    )
    shm_dir = _moved_shm_dir()
    if scope == "user":
        if read_write:
            raise SettingsError("--read-write belongs to --system; --user may write what you may")
        return user_service(Path.home(), program, shm_dir, http=http)
    writable = [path.expanduser().absolute() for path in read_write]
    return system_service(entry.pw_name, Path(entry.pw_dir), program, writable, shm_dir, http=http)


def _installed_service(scope: Scope, account: str | None) -> Service:
    """Return where the files of a service lie, also of a user who is no more."""
    name = _name_for_system(scope, account)
    program = Program(python=Path(sys.executable))
    if name is None:
        _own_account()
        return user_service(Path.home(), program)
    return system_service(name, Path("/"), program)  # the home shapes no file's name


def _moved_shm_dir() -> Path | None:
    moved = os.environ.get(SHM_DIR_VARIABLE)
    return Path(moved).absolute() if moved else None


def _check_rights(scope: Scope) -> None:
    if scope == "system" and os.geteuid() != 0:
        raise SettingsError(
            f"--system needs root: sudo {sys.executable} -m tracksided service ..., "
            f"or leave it out for a service of your own"
        )


def _check_interpreter(entry: pwd.struct_passwd) -> None:
    """Refuse an interpreter that the user cannot run, such as one in root's home."""
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", "import tracksided"],
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=groups,
            cwd="/",
            capture_output=True,
            check=False,
            timeout=_IMPORT_TIMEOUT_S,
        )
        runs = done.returncode == 0
    except (PermissionError, FileNotFoundError):
        runs = False
    if not runs:
        raise SettingsError(
            f"{entry.pw_name} cannot run {sys.executable} with trackside; install trackside where "
            f"that user can read it, such as a virtual environment below {entry.pw_dir} or /opt"
        )


def _who_serves_already(entry: pwd.struct_passwd) -> str:
    """Explain a failed start by a daemon that a training or a shell has started."""
    moved = _moved_shm_dir()
    directory = moved or Path("/dev/shm") / f"trackside-{entry.pw_uid}"  # noqa: S108 - looked at
    pid = daemon_pid(directory)
    if pid is None:
        return ""
    how = f"with `kill {pid}`" if pid else f"({name_holder(pid)})"
    return (
        f"; a daemon that was started otherwise serves {directory}: end it {how}, and "
        f"systemd starts this one within seconds"
    )


def _say_limits(scope: Scope, entry: pwd.struct_passwd, read_write: tuple[Path, ...]) -> None:
    if scope == "system":
        places = ", ".join([entry.pw_dir, *(str(path) for path in read_write)])
        click.echo(
            f"it may write {places} and /dev/shm; name other places of outputs and checkpoints "
            f"with --read-write DIR"
        )
    if entry.pw_uid != 0 and not lingers(entry.pw_name):
        click.echo(
            f"note: when {entry.pw_name} logs out, systemd "
            + ("stops this service and " if scope == "user" else "")
            + "removes their files in /dev/shm, also of a running training (RemoveIPC); "
            f"`loginctl enable-linger {entry.pw_name}` prevents it",
            err=True,
        )
