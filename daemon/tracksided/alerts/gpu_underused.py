"""GPUs that mostly wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import finite
from tracksided.monitors.reading import HostReading, own_gpus

ADVICE = (
    "The GPU waits for something, most often for data: use more data loader workers, pinned "
    "memory and prefetching; look for .item() and prints in the loop; raise the batch size."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUnderused:
    """A GPU on which the run holds memory was used less than min_percent, averaged over the window.

    Utilization is the share of time in which any kernel ran.
    """

    name: ClassVar[str] = "gpu_underused"

    enabled: bool = True
    min_percent: float = 30.0
    window_readings: int = 60

    def check(self, now: HostReading, before: Sequence[HostReading]) -> Finding | None:
        """Tell of the GPU that is used least."""
        if len(before) < self.window_readings - 1 or not _is_known_whose(now):
            return None
        recent = (*before[len(before) - self.window_readings + 1 :], now)
        means: dict[int, float] = {}
        for gpu in own_gpus(now):
            used = finite(
                other.utilization_percent
                for reading in recent
                for other in reading.gpus
                if other.index == gpu.index
            )
            if len(used) == len(recent):
                means[gpu.index] = sum(used) / len(used)
        if not means or min(means.values()) >= self.min_percent:
            return None
        worst = min(means, key=lambda index: means[index])
        return Finding(
            severity="warning",
            value=means[worst],
            threshold=self.min_percent,
            message=f"GPU {worst} was used {means[worst]:.0f} % of the time of late",
            advice=ADVICE,
        )


def _is_known_whose(reading: HostReading) -> bool:
    return any(process.gpu_indices for process in reading.processes.values())
