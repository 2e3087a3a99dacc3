"""Checks of shared memory: its size, the node-local directory, the socket's path."""

import os
from collections.abc import Iterator

from trackside.wire.doorbell import MAX_PATH_BYTES
from trackside.wire.segment import SHM_DIR_VARIABLE
from tracksided.doctor.facts import Facts
from tracksided.doctor.finding import Finding, fail, mebibytes, ok, warn

RING_BYTES = 64 << 20  # what `attach` asks for unless told otherwise
MEMORY_KINDS = {"tmpfs", "ramfs", "hugetlbfs"}
GROUP_AND_OTHERS = 0o077

ENLARGE = (
    "enlarge it (`mount -o remount,size=4g /dev/shm`; docker: --shm-size=1g; Kubernetes: an "
    f"emptyDir with medium: Memory), lower ring_bytes=, or set {SHM_DIR_VARIABLE}"
)


def check_space(facts: Facts) -> Iterator[Finding]:
    """Is there room for a ring of each rank?"""
    check, space = "shared memory", facts.space
    if space is None:
        yield fail(check, f"no file system under {facts.node.path}", f"set {SHM_DIR_VARIABLE}")
        return
    ranks = max(facts.num_gpus or 1, 1)
    found = f"{mebibytes(space.free_bytes)} of {mebibytes(space.total_bytes)} are free"
    if space.free_bytes < RING_BYTES:
        yield fail(check, f"{found}; one rank's ring takes {mebibytes(RING_BYTES)}", ENLARGE)
    elif space.free_bytes < ranks * RING_BYTES:
        yield warn(check, f"{found}; {ranks} ranks take {mebibytes(ranks * RING_BYTES)}", ENLARGE)
    else:
        yield ok(check, found)
    if space.kind is not None and space.kind not in MEMORY_KINDS:
        yield warn(
            check,
            f"{facts.node.path} lies on {space.kind}, which writes rings to a disk",
            f"set {SHM_DIR_VARIABLE} to a directory on a tmpfs",
        )


def check_directory(facts: Facts) -> Iterator[Finding]:
    """Is the node-local directory ours alone?"""
    check, node = "node directory", facts.node
    if not node.can_be_made:
        yield fail(
            check,
            f"{node.path} is not there and cannot be made",
            f"set {SHM_DIR_VARIABLE} to a directory that you may write, or whose parent you may",
        )
    elif not node.exists:
        yield ok(check, f"{node.path} is made by the first run or daemon")
    elif not node.is_directory:
        yield fail(
            check,
            f"{node.path} is a link or a file",
            f"remove it, or set {SHM_DIR_VARIABLE}",
        )
    elif node.owner != facts.uid:
        yield fail(
            check,
            f"{node.path} belongs to user {node.owner}, not to user {facts.uid}",
            f"set {SHM_DIR_VARIABLE} to a directory of your own",
        )
    elif node.mode is not None and node.mode & GROUP_AND_OTHERS:
        yield fail(
            check,
            f"{node.path} has mode {node.mode:04o}, open to other users",
            f"run: chmod 700 {node.path}",
        )
    else:
        yield ok(check, f"{node.path} is yours alone")


def check_socket_path(facts: Facts) -> Iterator[Finding]:
    """Does the doorbell's path fit into a socket address?"""
    check, size = "socket path", len(os.fsencode(facts.socket_path))
    if size > MAX_PATH_BYTES:
        yield fail(
            check,
            f"{facts.socket_path} has {size} bytes, a socket path holds {MAX_PATH_BYTES}",
            f"set {SHM_DIR_VARIABLE} to a shorter directory",
        )
    else:
        yield ok(check, f"{size} of {MAX_PATH_BYTES} bytes")
