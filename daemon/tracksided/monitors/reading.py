"""What the machine was doing at one moment. Unknown is None, never 0.

One `HostReading` serves all runs. What a run is handed has the processes of its own ranks only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskReading:
    """Room on the file system that holds a path."""

    path: str
    """An output or checkpoint directory, or the node-local directory."""

    free_bytes: int
    """What this user may still write."""

    total_bytes: int
    """Of the whole file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XidError:
    """An error that the driver raised on a GPU."""

    timestamp: float
    """Unix seconds at which it was noticed."""

    code: int
    """See NVIDIA's Xid catalog: 48 is a double-bit ECC error, 79 a GPU off the bus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU, as NVML shows it."""

    index: int
    """NVML's, in the order of the PCI bus: not that of ``CUDA_VISIBLE_DEVICES``."""

    uuid: str | None = None
    """NVML's, such as ``GPU-...``."""

    name: str | None = None
    """Of the product."""

    utilization_percent: float | None = None
    """Share of the last sample period in which a kernel ran, 0 to 100."""

    memory_used_bytes: int | None = None
    """By all processes, without what the driver keeps for itself."""

    memory_total_bytes: int | None = None
    """Of the board."""

    temperature_c: float | None = None
    """Of the GPU itself, degrees Celsius."""

    slowdown_temperature_c: float | None = None
    """Where the hardware begins to slow down."""

    power_w: float | None = None
    """Drawn by the whole board, in watts."""

    throttle_reasons: tuple[str, ...] | None = None
    """Why clocks are held below what was asked for, as snake-case words of NVML's own names:
    ``sw_thermal_slowdown``, ``hw_slowdown``, ``hw_thermal_slowdown``, ``hw_power_brake_slowdown``,
    ``sync_boost``, ``sw_power_cap``, ``applications_clocks_setting``,
    ``display_clock_setting``, ``gpu_idle``. Empty where nothing holds them."""

    xid_errors: tuple[XidError, ...] = ()
    """The newest ones since we began to watch, oldest first: they stay in later readings, so
    that none is missed by who looks less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """The process of a rank with all its children (DataLoader workers)."""

    rank: int
    """In the whole job."""

    rss_bytes: int | None = None
    """Resident memory; pages that processes share are counted in each."""

    cpu_percent: float | None = None
    """Of one core, since the reading before; 800 are eight busy cores."""

    gpu_memory_bytes: int | None = None
    """On all GPUs together."""

    gpu_indices: tuple[int, ...] | None = None
    """The GPUs on which it holds memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """The machine at one moment."""

    timestamp: float
    """Unix seconds."""

    cpu_percent: float | None = None
    """Of all cores together since the reading before, 0 to 100."""

    memory_percent: float | None = None
    """Share of the host's memory that is not available, 0 to 100."""

    memory_pressure_level: int | None = None
    """0 none, 1 some, 2 high, 3 critical; see `tracksided.monitors.pressure`."""

    pressure_some_avg10: float | None = None
    """Share of the last 10 s in which some task waited for memory, 0 to 100 (PSI)."""

    pressure_full_avg10: float | None = None
    """Share of the last 10 s in which all tasks waited for memory, 0 to 100 (PSI)."""

    cgroup_memory_bytes: int | None = None
    """Used in the cgroup that is nearest to its limit, without what can be dropped at once."""

    cgroup_memory_limit_bytes: int | None = None
    """The limit of that cgroup; None where nothing limits us below the host's memory."""

    disks: tuple[DiskReading, ...] = ()
    """One per watched path that exists."""

    gpus: tuple[GpuReading, ...] = ()
    """All that NVML shows; none without a driver."""

    processes: Mapping[int, ProcessReading] = field(default_factory=dict)
    """Process id, as the daemon sees it, to the figures of a rank. A rank whose process the
    daemon cannot see is missing."""


def own_gpus(reading: HostReading) -> tuple[GpuReading, ...]:
    """Return the GPUs on which the run holds memory, or all where that is not known.

    Args:
        reading: of one run.
    """
    own = {index for process in reading.processes.values() for index in process.gpu_indices or ()}
    return tuple(gpu for gpu in reading.gpus if gpu.index in own) if own else reading.gpus


def of_ranks(reading: HostReading, pids: Mapping[int, int]) -> HostReading:
    """Narrow a reading to the processes of one run.

    Args:
        reading: of all runs.
        pids: process id, as the daemon sees it, to rank.
    """
    own = {
        pid: replace(process, rank=pids[pid])
        for pid, process in reading.processes.items()
        if pid in pids
    }
    return replace(reading, processes=own)
