"""Steps that have become slower than they were."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.observations import Observation

ADVICE = (
    "Look at what shares the machine, at the data loader and at the file system it reads from, "
    "and at GPUs that are throttled."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowSteps:
    """The median time of the newest recent_steps is ratio times that of the median_steps before.

    Nothing is said before min_steps. Medians, so that a checkpoint now and then does not count.
    """

    name: ClassVar[str] = "slow_steps"

    enabled: bool = True
    ratio: float = 1.5
    recent_steps: int = 5
    median_steps: int = 256
    min_steps: int = 20

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Compare the newest samples with those before them."""
        times = [entry.step_seconds for entry in (*before, now)]
        known = [seconds for seconds in times if seconds is not None and seconds > 0]
        recent = known[-self.recent_steps :]
        usual = known[-self.recent_steps - self.median_steps : -self.recent_steps]
        if now.step_seconds is None or len(usual) < self.min_steps:
            return None
        value, typical = statistics.median(recent), statistics.median(usual)
        threshold = self.ratio * typical
        if not value > threshold:
            return None
        return Finding(
            severity="warning",
            value=value,
            threshold=threshold,
            message=f"a step takes {value:.3g} s, {value / typical:.1f} times what it took before",
            advice=ADVICE,
        )
