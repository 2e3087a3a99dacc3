"""How far the ranks of a step are apart."""

from collections.abc import Hashable, Iterable, Mapping

from tracksided.convergence.robust import median


def straggler_scores(step_seconds: Mapping[int, float]) -> dict[int, float]:
    """Return, for each rank, the median step time of the other ranks over its own.

    1 is as fast as the others, 0.5 takes twice as long. Empty for fewer than two ranks.

    Source: NVIDIA Resiliency Extension, straggler detection, relative performance scores.

    Args:
        step_seconds: rank to seconds, above 0.
    """
    if len(step_seconds) < 2:  # noqa: PLR2004 - a rank and another one
        return {}
    return {
        rank: median([value for other, value in step_seconds.items() if other != rank]) / own
        for rank, own in step_seconds.items()
    }


def step_time_skew(step_seconds: Mapping[int, float]) -> float | None:
    """Return how much longer the slowest rank takes than the median one: 0 where all are equal.

    (max - median) / median of the step times; None for fewer than two ranks.
    """
    if len(step_seconds) < 2:  # noqa: PLR2004 - a rank and another one
        return None
    seconds = list(step_seconds.values())
    typical = median(seconds)
    return (max(seconds) - typical) / typical


def num_distinct(checksums: Iterable[Hashable | None]) -> int | None:
    """Count different weights among the ranks that told a checksum; None for fewer than two.

    1 for replicas in step with each other. Ranks that hold different shards of a model differ
    by design.
    """
    known = [checksum for checksum in checksums if checksum is not None]
    return len(set(known)) if len(known) > 1 else None
