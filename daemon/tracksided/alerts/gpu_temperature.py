"""A GPU that is too hot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.monitors.reading import GpuReading, HostReading, own_gpus

ADVICE = (
    "Look at fans, air flow and the temperature of the room; lower the power limit "
    "(nvidia-smi -pl) until that is mended. Hot GPUs slow the whole job down."
)
# Power and idle limits are no heat; hw_slowdown alone may be a power brake.
THERMAL_REASONS = frozenset({"sw_thermal_slowdown", "hw_thermal_slowdown"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTemperature:
    """A GPU of the run slows down because of heat (critical), or is about to.

    About to: within margin_c of its slowdown temperature where NVML tells that, else above
    max_c. For persist_readings readings.
    """

    name: ClassVar[str] = "gpu_temperature"

    enabled: bool = True
    max_c: float = 85.0
    margin_c: float = 5.0
    persist_readings: int = 2

    def check(self, now: HostReading, before: Sequence[HostReading]) -> Finding | None:
        """Tell of the hottest GPU."""
        if len(before) < self.persist_readings - 1:
            return None
        recent = before[len(before) - self.persist_readings + 1 :]
        hot = [
            gpu
            for gpu in own_gpus(now)
            if self._is_hot(gpu)
            and all(
                any(other.index == gpu.index and self._is_hot(other) for other in reading.gpus)
                for reading in recent
            )
        ]
        if not hot:
            return None
        worst = max(hot, key=lambda gpu: (_is_throttled(gpu), gpu.temperature_c or 0.0))
        heat = "hot" if worst.temperature_c is None else f"at {worst.temperature_c:.0f} C"
        slow = ", and slowed down because of it" if _is_throttled(worst) else ""
        return Finding(
            severity="critical" if _is_throttled(worst) else "warning",
            value=worst.temperature_c,
            threshold=self._limit(worst),
            message=f"GPU {worst.index} is {heat}{slow}",
            advice=ADVICE,
        )

    def _limit(self, gpu: GpuReading) -> float:
        slowdown = gpu.slowdown_temperature_c
        return self.max_c if slowdown is None else slowdown - self.margin_c

    def _is_hot(self, gpu: GpuReading) -> bool:
        is_near = gpu.temperature_c is not None and gpu.temperature_c > self._limit(gpu)
        return is_near or _is_throttled(gpu)


def _is_throttled(gpu: GpuReading) -> bool:
    return not THERMAL_REASONS.isdisjoint(gpu.throttle_reasons or ())
