"""The averaging methods: each is one weighted sum, so each is a tuple of weights.

| method | weight of checkpoint j of n, oldest first | source |
|---|---|---|
| uniform | 1 / n | Polyak 1992; Izmailov et al. 2018, arXiv:1803.05407 |
| lawa | 1 / n, over the latest ones | Kaddour 2022, arXiv:2209.14981 |
| ema | ~ gap_j d^(age_j), age in mean gaps | Morales-Brotons et al. 2024, arXiv:2411.18704 |
| wsm-* | w_j - w_(j+1) of a decay schedule w | Tian et al. 2025, arXiv:2507.17634 |

For wsm: w_0 = 1, w_j = f(j / n), w_n = 0, with f(u) = 1 - u (linear, which makes it uniform),
(1 + cos(pi u)) / 2 (cosine), 1 - sqrt(u) (1-sqrt): the weights that make the merge of
checkpoints from a constant learning rate follow a decayed one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from tracksided.errors import SettingsError

DEFAULT_DECAY = 0.9

_SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "wsm-linear": lambda u: 1 - u,
    "wsm-cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "wsm-1-sqrt": lambda u: 1 - math.sqrt(u),
}
METHODS = ("uniform", "ema", "lawa", *_SCHEDULES)


def weights(
    method: str, steps: Sequence[int | None], *, decay: float = DEFAULT_DECAY
) -> tuple[float, ...]:
    """Return one weight per checkpoint, oldest first; they sum to 1.

    Args:
        method: one of `METHODS`.
        steps: of each checkpoint, oldest first; where one is None, or they do not ascend, all gaps
            count as equal.
        decay: of `ema`, per mean gap between checkpoints; between 0 and 1, both excluded.

    Raises:
        SettingsError: the method or the decay cannot be used.
    """
    count = len(steps)
    if method in {"uniform", "lawa"}:
        return (1 / count,) * count
    if method == "ema":
        return _ema(steps, decay)
    schedule = _SCHEDULES.get(method)
    if schedule is None:
        raise SettingsError(f"method {method!r} is not known; use one of {', '.join(METHODS)}")
    return _merge(schedule, count)


def _merge(schedule: Callable[[float], float], count: int) -> tuple[float, ...]:
    levels = [1.0, *(schedule(j / count) for j in range(1, count)), 0.0]
    return tuple(a - b for a, b in pairwise(levels))


def _ema(steps: Sequence[int | None], decay: float) -> tuple[float, ...]:
    if not 0 < decay < 1:
        raise SettingsError(f"decay is {decay}; it must lie between 0 and 1")
    known = [step for step in steps if step is not None]
    ordered = len(known) == len(steps) and all(a < b for a, b in pairwise(known))
    times = known if ordered else list(range(len(steps)))
    if len(times) == 1:
        return (1.0,)
    gaps = [b - a for a, b in pairwise(times)]
    mean_gap = sum(gaps) / len(gaps)
    gaps.insert(0, gaps[0])  # nothing is known of the time before the oldest
    raw = [
        gap * decay ** ((times[-1] - time) / mean_gap)
        for gap, time in zip(gaps, times, strict=True)
    ]
    total = sum(raw)
    return tuple(weight / total for weight in raw)
