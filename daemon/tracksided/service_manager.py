"""Put units where systemd reads them, and ask systemd to start and stop them."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tracksided.errors import OutputError, SettingsError
from tracksided.service_units import Scope, Service

BOOTED_MARK = Path("/run/systemd/system")  # sd_booted(3)
# A start waits for the daemon's READY=1, a stop for its drain; both have limits in the units.
_CALL_TIMEOUT_S = 180
_UNIT_MODE = 0o644


class ServiceManager:
    """The machine's or the user's own systemd."""

    def __init__(self, scope: Scope, environ: Mapping[str, str]) -> None:
        """Find the running service manager.

        Raises:
            SettingsError: systemd does not run here, or not for this user.
        """
        self._scope = scope
        self._environ = dict(environ)
        if not BOOTED_MARK.is_dir():
            raise SettingsError(
                "systemd does not run on this machine; start the daemon with `trackside daemon`, "
                "or let `trackside.attach` start it"
            )
        if scope == "user":
            # su and sudo do not set it.
            self._environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
            if not (Path(self._environ["XDG_RUNTIME_DIR"]) / "systemd/private").exists():
                raise SettingsError(
                    "no service manager runs for this user; log in, or run "
                    "`loginctl enable-linger` first, or use --system --for USER as root"
                )

    def start(self, service: Service, *, now: bool) -> None:
        """Make the service start with the machine or at login, and start it again now.

        Raises:
            OutputError: systemd refused, or the daemon did not come up.
        """
        self._call("daemon-reload")
        self._call("enable", service.name)
        if now:
            self._call("restart", service.name)

    def stop(self, service: Service) -> None:
        """Stop the service and take it out of the start of the machine.

        Raises:
            OutputError: systemd refused.
        """
        self._call("disable", "--now", service.name)

    def reload(self) -> None:
        """Let systemd read its unit files again.

        Raises:
            OutputError: systemd refused.
        """
        self._call("daemon-reload")

    def enable_linger(self, user: str) -> None:
        """Keep the user's service manager and shared memory when they log out.

        Raises:
            OutputError: logind refused.
        """
        self._run(["loginctl", "enable-linger", user])

    def _call(self, *arguments: str) -> None:
        self._run(["systemctl", f"--{self._scope}", *arguments])

    def _run(self, command: list[str]) -> None:
        shown = " ".join(command)
        try:
            done = subprocess.run(
                command,
                env=self._environ,
                capture_output=True,
                text=True,
                check=False,
                timeout=_CALL_TIMEOUT_S,
            )
        except OSError as error:
            raise OutputError(f"cannot run `{shown}`: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise OutputError(f"`{shown}` gave no answer in {_CALL_TIMEOUT_S} s") from error
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise OutputError(f"`{shown}` failed: {said}")


def write_units(service: Service) -> None:
    """Write each file whole: systemd never reads half a unit. What is obsolete goes.

    Raises:
        OutputError: a directory or file cannot be written or removed.
    """
    for path in service.obsolete:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot remove {path}: {error.strerror}") from error
    for file in service.files:
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(file.path, file.text)
        except OSError as error:
            raise OutputError(f"cannot write {file.path}: {error.strerror}") from error


def remove_units(service: Service) -> tuple[Path, ...]:
    """Remove the service's files, and the shared ones once no other user needs them.

    Returns:
        What was removed; empty where nothing was installed.

    Raises:
        OutputError: a file cannot be removed.
    """
    removed = []
    own = [*(file.path for file in service.files if not file.shared), *service.obsolete]
    shared = [file.path for file in service.files if file.shared]
    for paths in (own, shared):
        if paths is shared and _others_exist(service):
            continue
        for path in paths:
            try:
                path.unlink()
                removed.append(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise OutputError(f"cannot remove {path}: {error.strerror}") from error
            _remove_if_empty(path.parent)
    return tuple(removed)


def _others_exist(service: Service) -> bool:
    directories = {file.path.parent for file in service.files if file.shared}
    return any(
        path.parent.name != f"{service.name}.d"
        for directory in directories
        for path in directory.glob("trackside@*.service.d/*")
    )


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), _UNIT_MODE)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_if_empty(directory: Path) -> None:
    if directory.name.endswith(".service.d") and not any(directory.iterdir()):
        directory.rmdir()
