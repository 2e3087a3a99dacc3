"""What systemd-logind does at a logout: to shared memory, and to services that linger."""

from collections.abc import Iterable
from pathlib import Path

MAIN_FILE = "logind.conf"
# Of files with one name the first directory's wins; all names are read in order.
DIRECTORIES = tuple(
    Path(base) / "systemd" for base in ("/etc", "/run", "/usr/local/lib", "/usr/lib")
)
LINGER_DIRECTORY = Path("/var/lib/systemd/linger")
_NO = {"no", "false", "off", "0", "n", "f"}


def removes_ipc(directories: Iterable[Path] = DIRECTORIES) -> bool:
    """Tell whether RemoveIPC= is on: the default, unless a file says no; see logind.conf(5)."""
    places = tuple(directories)
    main = next((place / MAIN_FILE for place in places if (place / MAIN_FILE).is_file()), None)
    dropins: dict[str, Path] = {}
    for place in reversed(places):
        dropins |= {path.name: path for path in (place / f"{MAIN_FILE}.d").glob("*.conf")}
    files = ([] if main is None else [main]) + [dropins[name] for name in sorted(dropins)]
    removes = True
    for path in files:
        removes = _read(path, removes)
    return removes


def lingers(user: str, directory: Path = LINGER_DIRECTORY) -> bool:
    """Tell whether a user's services outlive the login."""
    return (directory / user).exists()


def _read(path: Path, before: bool) -> bool:  # noqa: FBT001 - the value that a file may change
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return before
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "RemoveIPC":
            before = value.strip().lower() not in _NO
    return before
