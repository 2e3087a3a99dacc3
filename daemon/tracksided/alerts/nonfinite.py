"""Loss or gradient that is not finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.observations import Observation

ADVICE = (
    "Stop and go back to a checkpoint from before this step. Look for a bad batch, a division or "
    "logarithm of 0, or a half precision overflow; lower the learning rate or clip gradients."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonfinite:
    """The loss of any rank, or the gradient norm, is NaN or infinite: critical at once.

    With a gradient scaler a gradient that overflows is part of its search for the scale: there
    it takes ``scaled_steps`` of them in a row.
    """

    name: ClassVar[str] = "nonfinite"

    enabled: bool = True
    scaled_steps: int = 3
    """Samples in a row whose gradient must not be finite where a gradient scaler is used."""

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Look at the losses first: they are no matter of scale."""
        if _is_bad(now.loss):
            return _finding("loss", now.step, None)
        for rank in now.ranks:
            if _is_bad(rank.loss):
                return _finding("loss", now.step, rank.rank)
        wanted = 1 if now.amp_scale is None else self.scaled_steps
        recent = (*before[len(before) - wanted + 1 :], now) if wanted > 1 else (now,)
        if len(recent) == wanted and all(_is_bad(entry.gradient_norm) for entry in recent):
            return _finding("gradient norm", now.step, None)
        if now.amp_scale is None and _is_bad(now.norm_peak):
            return _finding("gradient norm since the sample before", now.step, None)
        return None


def _is_bad(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)


def _finding(what: str, step: int, rank: int | None) -> Finding:
    where = "" if rank is None else f" of rank {rank}"
    return Finding(
        severity="critical",
        value=math.nan,
        threshold=None,
        message=f"the {what}{where} is NaN or infinite at step {step}",
        advice=ADVICE,
        rank=rank,
    )
