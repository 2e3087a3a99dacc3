"""Sorts names of checkpoints into series, for the tests of what belongs together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tracksided.checkpoints.policy import Candidate, newest_first, with_steps
from tracksided.checkpoints.series import series_of

Steps = dict[str, int | None]


def sort_out(
    names: Sequence[str], contents: Mapping[str, int] | None = None, *, is_mixed: bool = False
) -> tuple[list[Steps], list[str]]:
    """Return the steps of each series, oldest first, and the reasons to skip them.

    Args:
        names: in the order of their writing; a slash at the end makes a directory.
        contents: steps that the files state inside.
        is_mixed: all together.
    """
    candidates = [
        Candidate(Path(name), mtime_ns, is_directory=name.endswith("/"))
        for mtime_ns, name in enumerate(names)
    ]
    found = series_of(candidates, is_mixed=is_mixed)
    ordered = [
        newest_first(
            with_steps(
                [
                    replace(entry, content_step=(contents or {}).get(entry.path.name))
                    for entry in series.candidates
                ]
            )
        )[::-1]
        for series in found
    ]
    steps: list[Steps] = [{entry.path.name: entry.step for entry in row} for row in ordered]
    return steps, [series.reason for series in found]
