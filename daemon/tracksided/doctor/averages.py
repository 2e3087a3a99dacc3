"""Check of the checkpoint directories that the daemon watches."""

from collections.abc import Iterator

from tracksided.doctor.facts import AverageFacts, Facts
from tracksided.doctor.finding import Finding, counted, fail, ok, warn


def check_averages(facts: Facts) -> Iterator[Finding]:
    """Are checkpoints averaged as they come?"""
    check = "averages"
    for entry in () if facts.daemon is None else facts.daemon.averages:
        found = list(_troubles(check, entry))
        yield from found or [ok(check, f"checkpoints in {entry.directory} are watched")]


def waits_for(missing: int, kept: int | None) -> str:
    """Say what an averaging waits for that has too few usable checkpoints.

    Args:
        missing: number of those that it waits for.
        kept: number of those that the training's rotation leaves; None where it leaves enough.
    """
    if kept is not None:
        return (
            f"{counted(kept, 'checkpoint')} kept, {kept + missing} are needed: let the training "
            "keep more (save_total_limit), or set a lower min_checkpoints"
        )
    return (
        f"waits for {counted(missing, 'more checkpoint')} like the newest; if that one does not "
        "belong there, move it away"
    )


def _troubles(check: str, entry: AverageFacts) -> Iterator[Finding]:
    if entry.error is not None:
        yield fail(
            check,
            entry.error,
            "once that is mended the next checkpoint is averaged, or the same ones within an hour "
            "where the system refused (no room); until then the previous average stays",
        )
    if entry.missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in entry.refused)
        yield warn(
            check,
            f"checkpoints in {entry.directory} are not averaged: {reasons or 'there are too few'}",
            waits_for(entry.missing, entry.kept),
        )
    else:
        for name, reason in entry.refused:
            yield warn(
                check,
                f"{entry.directory / name} is left out: {reason}",
                "nothing, if it is being written; else remove it, or save it again",
            )
    if entry.polled_because is not None:
        yield warn(
            check,
            f"checkpoints in {entry.directory} are polled alone: {entry.polled_because}",
            "nothing, if some seconds more do not matter; else mend that: the next poll finds out",
        )
