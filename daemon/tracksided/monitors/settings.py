"""Section ``[monitors]`` of the settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """Readings of the host, the GPUs and the ranks' processes."""

    enabled: bool = True
    """Whether anything is read at all."""

    every_seconds: float = 10.0
    """How often a reading is taken while runs are served."""

    gpus: bool = True
    """Whether GPUs are asked, through NVML."""
