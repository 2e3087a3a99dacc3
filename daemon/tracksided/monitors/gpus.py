"""NVIDIA GPUs: the only file that knows NVML.

A machine without NVML is normal. Every call may fail for one GPU or one field alone (old drivers,
virtual GPUs, missing rights): what cannot be read is None.

Source: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

import psutil
import pynvml

from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import GpuReading, HostReading, ProcessReading, XidError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

MAX_XIDS = 16  # of a GPU; the newest stay
MAX_EVENTS = 256  # taken at one reading
_MILLI = 1e-3

# Bits of the clocks event reasons, once called throttle reasons.
THROTTLE_REASONS: Mapping[int, str] = {
    pynvml.nvmlClocksEventReasonGpuIdle: "gpu_idle",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "applications_clocks_setting",
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake_slowdown",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display_clock_setting",
}


def count_gpus() -> tuple[int | None, str | None]:
    """Return how many GPUs NVML shows, or why it shows none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, str(error)
    try:
        return int(pynvml.nvmlDeviceGetCount()), None
    except pynvml.NVMLError as error:
        return None, str(error)
    finally:
        pynvml.nvmlShutdown()


@dataclass(slots=True)
class _Gpu:
    """What stays the same of a GPU."""

    index: int
    handle: Any
    uuid: str | None
    name: str | None
    xids: deque[XidError] = field(default_factory=lambda: deque(maxlen=MAX_XIDS))


class Gpus:
    """Reads all GPUs, and which of the ranks' processes hold memory on them."""

    name = "gpus"

    def __init__(self) -> None:
        self._gpus: list[_Gpu] = []
        self._events: Any = None
        self._count: int | None = None  # also of those that cannot be opened; None while closed

    def read(self, watched: Watched, reading: HostReading) -> HostReading:
        """Add the GPUs, and their share to the processes that were found before."""
        if not self._open():
            return reading
        self._take_events(reading.timestamp)
        held: dict[int, dict[int, int]] = {}  # pid of a rank -> GPU -> bytes
        for gpu in self._gpus:
            for pid, num_bytes in _processes(gpu.handle):
                root = _watched_ancestor(pid, watched.ranks)
                if root is not None:
                    of_root = held.setdefault(root, {})
                    of_root[gpu.index] = of_root.get(gpu.index, 0) + num_bytes
        return replace(
            reading,
            gpus=tuple(_reading(gpu) for gpu in self._gpus),
            processes={
                pid: _with_gpus(process, held.get(pid))
                for pid, process in reading.processes.items()
            },
        )

    def _open(self) -> bool:
        """Open NVML where that has not been done; a driver may be loaded, or exchanged, later."""
        if self._count is not None:
            if _known(pynvml.nvmlDeviceGetCount) == self._count:
                return True
            self._close()
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return False
        self._count = _known(pynvml.nvmlDeviceGetCount) or 0
        self._gpus = list(_find(self._count))
        self._events = _listen(self._gpus)
        return True

    def _close(self) -> None:
        if self._events is not None:
            _known(pynvml.nvmlEventSetFree, self._events)
        _known(pynvml.nvmlShutdown)
        self._gpus, self._events, self._count = [], None, None

    def _take_events(self, timestamp: float) -> None:
        """Note the errors that the driver has raised since the reading before."""
        if self._events is None:
            return
        for _ in range(MAX_EVENTS):
            event = _known(pynvml.nvmlEventSetWait_v2, self._events, 0)
            if event is None:  # the usual case: no event within 0 ms
                return
            index = _known(pynvml.nvmlDeviceGetIndex, event.device)
            for gpu in self._gpus:
                if gpu.index == index:
                    gpu.xids.append(XidError(timestamp=timestamp, code=int(event.eventData)))


def _find(count: int) -> Iterator[_Gpu]:
    for index in range(count):
        handle = _known(pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            yield _Gpu(
                index=index,
                handle=handle,
                uuid=_known(pynvml.nvmlDeviceGetUUID, handle),
                name=_known(pynvml.nvmlDeviceGetName, handle),
            )


def _listen(gpus: list[_Gpu]) -> Any:
    """Ask to be told of Xid errors; None where that is not possible."""
    events = _known(pynvml.nvmlEventSetCreate)
    if events is None:
        return None
    for gpu in gpus:
        _known(
            pynvml.nvmlDeviceRegisterEvents,
            gpu.handle,
            pynvml.nvmlEventTypeXidCriticalError,
            events,
        )
    return events


def _reading(gpu: _Gpu) -> GpuReading:
    rates = _known(pynvml.nvmlDeviceGetUtilizationRates, gpu.handle)
    memory = _memory(gpu.handle)
    temperature_c = _temperature(gpu.handle)
    milliwatts = _known(pynvml.nvmlDeviceGetPowerUsage, gpu.handle)
    return GpuReading(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        utilization_percent=None if rates is None else float(rates.gpu),
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_c=temperature_c,
        slowdown_temperature_c=_slowdown(gpu.handle, temperature_c),
        power_w=None if milliwatts is None else milliwatts * _MILLI,
        throttle_reasons=_throttle_reasons(gpu.handle),
        xid_errors=tuple(gpu.xids),
    )


def _memory(handle: Any) -> Any:
    """Version 2 tells apart what the driver keeps; drivers before 510 have version 1 only."""
    found = _known(pynvml.nvmlDeviceGetMemoryInfo, handle, version=pynvml.nvmlMemory_v2)
    return _known(pynvml.nvmlDeviceGetMemoryInfo, handle) if found is None else found


def _temperature(handle: Any) -> float | None:
    """The newer call first: CUDA 14 takes the older away."""
    for call in (pynvml.nvmlDeviceGetTemperatureV, pynvml.nvmlDeviceGetTemperature):
        found = _known(call, handle, pynvml.NVML_TEMPERATURE_GPU)
        if found is not None:
            return float(found)
    return None


def _slowdown(handle: Any, temperature_c: float | None) -> float | None:
    """The threshold, or what newer GPUs have instead: how far away it is now."""
    threshold = _known(
        pynvml.nvmlDeviceGetTemperatureThreshold,
        handle,
        pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
    )
    if threshold is not None:
        return float(threshold)
    margin = _known(pynvml.nvmlDeviceGetMarginTemperature, handle)
    return None if margin is None or temperature_c is None else temperature_c + margin


def _throttle_reasons(handle: Any) -> tuple[str, ...] | None:
    """The call of drivers since 535, then its older name."""
    for call in (
        pynvml.nvmlDeviceGetCurrentClocksEventReasons,
        pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    ):
        bits = _known(call, handle)
        if bits is not None:
            return tuple(name for bit, name in THROTTLE_REASONS.items() if bits & bit)
    return None


def _processes(handle: Any) -> Iterator[tuple[int, int]]:
    """Yield process ids and bytes; in a container the ids may be those of the host."""
    for entry in _known(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle) or ():
        if entry.usedGpuMemory is not None:
            yield int(entry.pid), int(entry.usedGpuMemory)


def _watched_ancestor(pid: int, ranks: Mapping[int, int]) -> int | None:
    """Return the rank's process that a process belongs to: itself, or a parent of it."""
    try:
        while pid not in ranks:
            if pid <= 1:
                return None
            pid = psutil.Process(pid).ppid()
    except psutil.Error:
        return None
    return pid


def _with_gpus(process: ProcessReading, held: Mapping[int, int] | None) -> ProcessReading:
    if held is None:
        return process
    return replace(process, gpu_memory_bytes=sum(held.values()), gpu_indices=tuple(sorted(held)))


def _known(call: Callable[_P, _Result], *args: _P.args, **kwargs: _P.kwargs) -> _Result | None:
    """Call NVML; None for what this GPU, driver or user cannot have."""
    try:
        return call(*args, **kwargs)
    except pynvml.NVMLError:
        return None
