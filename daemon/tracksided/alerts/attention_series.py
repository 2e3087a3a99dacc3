"""One number of one attention call over the remembered steps."""

from collections.abc import Callable, Iterable

from tracksided.convergence.robust import finite
from tracksided.observations import AttentionObservation, Observation

Place = tuple[str, str, int]


def series(
    steps: Iterable[Observation],
    place: Place,
    number: Callable[[AttentionObservation], float | None],
) -> list[float]:
    """Return what is known and finite of one call, oldest first.

    Args:
        steps: oldest first.
        place: which call.
        number: what is wanted of it; None where it is not known.
    """
    return finite(number(call) for step in steps for call in step.attention if call.place == place)
