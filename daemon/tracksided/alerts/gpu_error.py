"""Errors that a GPU's driver has raised."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.monitors.reading import HostReading, own_gpus

ADVICE = (
    "Look the code up in NVIDIA's list of Xid errors, and at `dmesg`. After a hardware error save "
    "a checkpoint, take the GPU out of service and reset it before anybody uses it again."
)
# Stopped processing, double-bit ECC, fallen off the bus, uncontained ECC, GSP error or timeout.
CRITICAL_CODES = frozenset({46, 48, 79, 95, 119, 120})

FRESH_S = 60.0  # at the first reading of a run: what is older happened before it began


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuError:
    """The driver raised an Xid error for a GPU of the run; critical where it is the hardware's.

    Source: NVIDIA, Xid Errors, https://docs.nvidia.com/deploy/xid-errors/.
    """

    name: ClassVar[str] = "gpu_error"

    enabled: bool = True

    def check(self, now: HostReading, before: Sequence[HostReading]) -> Finding | None:
        """Tell of the worst error that is new: readings keep the old ones."""
        since = before[-1].timestamp if before else now.timestamp - FRESH_S
        errors = [
            (gpu.index, error.code)
            for gpu in own_gpus(now)
            for error in gpu.xid_errors
            if error.timestamp > since
        ]
        if not errors:
            return None
        index, code = max(errors, key=lambda entry: entry[1] in CRITICAL_CODES)
        return Finding(
            severity="critical" if code in CRITICAL_CODES else "warning",
            value=float(code),
            threshold=None,
            message=f"GPU {index} raised Xid error {code}",
            advice=ADVICE,
        )
