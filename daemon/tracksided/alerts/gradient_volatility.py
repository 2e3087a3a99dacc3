"""Gradient norm that jumps up and down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.gradients import num_swings
from tracksided.convergence.robust import finite
from tracksided.observations import Observation

ADVICE = (
    "Training is unstable: lower the learning rate, raise the batch size, clip gradients, and "
    "look at whether some batches are of another kind."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientVolatility:
    """From sample to sample the norm changes by swing_ratio or more, min_swings times of late."""

    name: ClassVar[str] = "gradient_volatility"

    enabled: bool = True
    swing_ratio: float = 10.0
    window_steps: int = 20
    min_swings: int = 5
    """One outlier is two swings, up and down."""

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Count swings in both directions."""
        recent = (*before[-self.window_steps :], now)
        norms = finite(entry.gradient_norm for entry in recent)
        found = num_swings(norms, self.swing_ratio)
        if found < self.min_swings:
            return None
        return Finding(
            severity="warning",
            value=float(found),
            threshold=float(self.min_swings),
            message=(
                f"gradient norm changed by {self.swing_ratio:g} times or more {found} times "
                f"in {len(norms) - 1} samples, between {min(norms):.3g} and {max(norms):.3g}"
            ),
            advice=ADVICE,
        )
