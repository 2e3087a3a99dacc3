"""Put in order what killed writers of averages have left.

Under ``.NAME.<digits>.trackside-tmp`` lies what is being written and never had its name: a writer
put all of it there, so all of it goes. Under ``.NAME.<digits>.trackside-old`` lies a directory that
has the name, had it, or was about to get it: only what its description lists goes; everything else
moves to the directory that has the name. What a living writer holds is locked.
"""

import contextlib
import fcntl
import logging
import os
import stat
from pathlib import Path

from tracksided.checkpoints.directory_lock import locked
from tracksided.checkpoints.naming import name_before_aside, name_to_be
from tracksided.checkpoints.publish_directory import remove_unpublished
from tracksided.checkpoints.replaced import discard, hand_over, open_directory

logger = logging.getLogger(__name__)


def sweep(directory: Path, output: str | None = None) -> int:
    """Remove temporary files and directories whose writer is gone; return how many.

    A directory that stepped aside for one that never came gets its name back. What is not of an
    average in one that was replaced goes to that which has its place. What other users own stays;
    root takes that of the directory's owner for its own, because what it writes belongs to the
    owner of the checkpoints. Where nothing can be listed, nothing can be removed: that is no error
    here. While somebody else gives or takes names there, everything stays for the next time: this
    waits for nobody.

    Args:
        directory: in which averages are published.
        output: name of the one output that is looked after; None: all.
    """
    removed = 0
    with contextlib.suppress(OSError), locked(directory, waits=False) as is_held:
        owners = _owners_in(directory)
        for name in [entry.name for entry in os.scandir(directory)] if is_held else ():
            before = name_before_aside(name)
            its_output = before or name_to_be(name)
            if its_output is not None and output in {None, its_output}:
                wanted = directory / its_output if before else None
                removed += _remove_if_abandoned(directory / name, wanted, owners)
    if removed:
        logger.info("removed %d abandoned temporary outputs from %s", removed, directory)
    return removed


def _owners_in(directory: Path) -> frozenset[int]:
    """Return whose leftovers are ours; raises OSError."""
    user = os.geteuid()
    return frozenset({user} if user else {user, directory.stat().st_uid})


def _remove_if_abandoned(path: Path, aside_of: Path | None, owners: frozenset[int]) -> bool:
    """Remove one; ``aside_of`` is the name that it had or was to get, if it is a whole one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False  # gone already, or not ours
    try:
        status = os.fstat(descriptor)
        if status.st_uid not in owners:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not stat.S_ISDIR(status.st_mode):
            if aside_of is None:  # only directories step aside
                path.unlink()
        elif aside_of is None:
            remove_unpublished(path, descriptor)
        elif os.path.lexists(aside_of):
            _hand_over(path, descriptor, aside_of)
        else:
            path.rename(aside_of)
            return False
    except OSError:
        return False  # its writer lives, or it is not ours to remove
    finally:
        os.close(descriptor)
    return not os.path.lexists(path)


def _hand_over(path: Path, descriptor: int, output: Path) -> None:
    new = open_directory(output)
    try:
        if os.fstat(new).st_uid == os.fstat(descriptor).st_uid:
            discard(path, descriptor, hand_over(descriptor, new))
    finally:
        os.close(new)
