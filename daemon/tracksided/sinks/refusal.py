"""What to tell the user when an output cannot be written."""

import errno
from pathlib import Path

from tracksided.errors import OutputError

_MENDS = {
    errno.ENOENT: "was the directory moved or removed, or does another daemon write there, too?",
    errno.ENOSPC: "free some space on its file system",
    errno.EDQUOT: "your disk quota is used up: free some space",
    errno.EACCES: "let the daemon's user write there, or set save_dir= elsewhere",
    errno.EPERM: "let the daemon's user write there, or set save_dir= elsewhere",
    errno.EROFS: (
        "the file system is read-only for the daemon: set save_dir= elsewhere, or let the service "
        "write there: trackside service install --read-write DIR"
    ),
    errno.ENOTDIR: "a file stands where a directory is needed: move it away",
    errno.EEXIST: "a file stands where a directory is needed: move it away",
    errno.EISDIR: "a directory stands where a file is needed: move it away",
    errno.ENXIO: "a pipe, a socket or a device stands where a file is needed: move it away",
    errno.ENAMETOOLONG: "set save_dir= to a shorter path",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Build an error that names the path, the reason and the mend."""
    reason = error.strerror or repr(error)
    mend = _MENDS.get(error.errno or 0)
    return OutputError(f"cannot write {path}: {reason}" + (f"; {mend}" if mend else ""))
