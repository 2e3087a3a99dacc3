"""``training_statistics.json``: what became of a run, all ranks together."""

from collections.abc import Callable
from typing import Any

from trackside.wire.records import Close
from tracksided.assemble import SCHEMA
from tracksided.convergence.course import Course
from tracksided.convergence.verdict import Verdict
from tracksided.ingest.generation import Generation
from tracksided.ingest.stream import RankStream
from tracksided.reports import SegmentProgress

Progress = Callable[[str], SegmentProgress]


def run_totals(
    generation: Generation, progress: Progress, course: Course, verdict: Verdict
) -> dict[str, Any]:
    """Return the document without the averages.

    Args:
        generation: all local ranks of one start.
        progress: nonce of a segment to what is committed of it.
        course: what the run has been through.
        verdict: after its last step.
    """
    ranks = [_rank(stream, progress(stream.nonce)) for stream in generation.streams]
    ranks.sort(key=lambda entry: entry["rank"])
    dropped: dict[str, int] = {}
    for rank in ranks:
        for cause, count in rank["dropped"].items():
            dropped[cause] = dropped.get(cause, 0) + count
    leader = ranks[0]
    ends = [rank["ended_at"] for rank in ranks if rank["ended_at"] is not None]
    return {
        "schema": SCHEMA,
        "run": generation.hello.run,
        "state": "finished" if len(ends) == len(ranks) else "killed",
        "started_at": generation.hello.started_at,
        "ended_at": max(ends, default=None),
        "world_size": generation.hello.world_size,
        "steps": leader["steps"],
        "sampled": leader["sampled"],
        "processed": max(progress(nonce).num_steps for nonce in generation.nonces),
        "late": generation.late,
        "dropped": dropped,
        "final": {
            "step": leader["last_step"],
            "loss": leader["loss"],
            **_final(course, verdict),
        },
        "ranks": ranks,
    }


def leader_close(generation: Generation) -> Close | None:
    """Return how the lowest rank ended; None where it was killed."""
    return min(generation.streams, key=lambda stream: stream.hello.rank).close_record


def _rank(stream: RankStream, progress: SegmentProgress) -> dict[str, Any]:
    health, close = stream.health(), stream.close_record
    return {
        "rank": health.rank,
        "steps": None if close is None else close.steps,
        "sampled": None if close is None else close.sampled,
        "published": None if close is None else close.published,
        "last_step": progress.last_step,
        "loss": None if close is None else close.loss,
        "ended_at": None if close is None else close.timestamp,
        "reason": "killed" if close is None else close.reason,
        "dropped": health.drops,
        "corrupt": health.corrupt_records,
        "torn": health.torn_records,
    }


def _final(course: Course, verdict: Verdict) -> dict[str, Any]:
    best, evaluation = course.best, course.evaluation
    return {
        "best_loss": None if best is None else best.value,
        "best_step": None if best is None else best.step,
        "best_evaluation": None
        if evaluation is None
        else {
            "name": evaluation.name,
            "value": evaluation.best.value,
            "step": evaluation.best.step,
        },
        "convergence_score": verdict.convergence_score,
        "loss_trend": verdict.loss_trend,
        "gradient_health": verdict.gradient_health,
        "advice": list(verdict.advice),
    }
