"""Check of what is missing of the runs that are served, and what would spare it."""

from collections.abc import Iterator, Mapping

from trackside.wire.layout import DropCause
from tracksided.doctor.facts import Facts, RunFacts
from tracksided.doctor.finding import Finding, counted, fail, ok, warn

MORE_TIME = "raise every= or workers.count, or give the daemon a higher priority"
DROP_MENDS: Mapping[str, str] = {
    DropCause.RING_FULL.label: f"raise ring_bytes=, see that a daemon serves, or {MORE_TIME}",
    DropCause.TOO_LARGE.label: "raise ring_bytes=, or take less of a step: layers=, heads=, "
    "max_queries=, step_bytes=",
    DropCause.COPY_LATE.label: "raise every=: the device had not copied the sample in time",
    DropCause.ERROR.label: "the trainer's log names the hook that failed: report it",
    DropCause.LOG_FULL.label: "log fewer values, or lower every= so that records take them sooner; "
    "where the ring is full too, see to that first",
}
READ_THE_LOG = "the daemon's log names the cause of each"


def check_losses(facts: Facts) -> Iterator[Finding]:
    """Does everything that is sampled arrive, with all that belongs to it?"""
    check = "runs"
    if facts.daemon is None:
        return
    found = [finding for run in facts.daemon.runs for finding in _losses(check, run)]
    yield from found or [ok(check, f"{len(facts.daemon.runs)} served, nothing left out")]


def _losses(check: str, run: RunFacts) -> Iterator[Finding]:
    if run.defect is not None:
        yield fail(
            check,
            f"{run.name}: {run.defect}",
            "a defect of trackside: report the traceback in its log, and restart the daemon, "
            "which takes the run up where it stopped",
        )
    for cause, count in run.drops.items():
        mend = DROP_MENDS.get(cause, "the trainer's log says more")
        what = "logged value" if cause == DropCause.LOG_FULL.label else "sample"
        yield warn(check, f"{run.name}: {counted(count, what)} dropped, {cause}", mend)
    if run.num_shed:
        yield warn(
            check,
            f"{run.name}: {counted(run.num_shed, 'step')} without pictures, left out under load",
            MORE_TIME,
        )
    if run.num_failed:
        yield warn(
            check,
            f"{run.name}: {counted(run.num_failed, 'step')} without their analysis",
            READ_THE_LOG,
        )
