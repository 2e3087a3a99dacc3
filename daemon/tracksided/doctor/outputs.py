"""Checks of the directories into which outputs go."""

from collections.abc import Iterator

from tracksided.doctor.facts import Facts
from tracksided.doctor.finding import Finding, fail, mebibytes, ok, warn

LITTLE_BYTES = 1 << 30  # a day of pictures
NOTHING_BYTES = 16 << 20  # a few steps


def check_outputs(facts: Facts) -> Iterator[Finding]:
    """Can outputs be written, and is there room?"""
    check = "outputs"
    for output in facts.outputs:
        space = output.space
        if output.problem is not None:
            yield fail(check, output.problem, "once that is mended the daemon goes on by itself")
        elif output.in_the_way is not None:
            yield fail(
                check,
                f"{output.in_the_way} is a file, no directory",
                "move it away, or set save_dir= elsewhere",
            )
        elif not output.is_writable:
            yield fail(
                check,
                f"user {facts.user} may not write to {output.path}",
                "change its permissions, or set save_dir= elsewhere",
            )
        elif space is not None and space.free_bytes < NOTHING_BYTES:
            yield fail(
                check,
                f"{output.path}: {mebibytes(space.free_bytes)} are free",
                "free some space; what is published waits in shared memory",
            )
        elif space is not None and space.free_bytes < LITTLE_BYTES:
            yield warn(
                check,
                f"{output.path}: {mebibytes(space.free_bytes)} are free",
                "free some space, or sample less often: every=",
            )
        else:
            free = "" if space is None else f", {mebibytes(space.free_bytes)} are free"
            yield ok(check, f"{output.path} can be written{free}")
