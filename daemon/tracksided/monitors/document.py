"""What becomes of a reading: TensorBoard scalars, and the ``host`` object of a history line."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from tracksided.monitors.reading import GpuReading, HostReading, own_gpus
from tracksided.reports import Scalar, known_scalars

MIB = 1 << 20  # what the tags call MB, as PyTorch's memory summaries and nvidia-smi do


def host_object(reading: HostReading) -> dict[str, Any]:
    """Return the ``host`` object: the fields of the reading, processes as a list by rank."""
    document = asdict(reading)
    processes = sorted(reading.processes.items(), key=lambda item: (item[1].rank, item[0]))
    document["processes"] = [{"pid": pid, **asdict(process)} for pid, process in processes]
    return document


def host_scalars(reading: HostReading, step: int) -> Iterator[Scalar]:
    """Yield the ``Memory/*``, ``GPU_{i}/*`` and ``System/*`` tags; unknown values yield nothing.

    Args:
        reading: of one run: its processes are those of the run's ranks on this node.
        step: under which they stand.
    """
    processes = tuple(reading.processes.values())
    gpu_memory = _total(process.gpu_memory_bytes for process in processes)
    rss = _total(process.rss_bytes for process in processes)
    values: dict[str, float | None] = {
        "Memory/GPU_Allocated_MB": None if gpu_memory is None else gpu_memory / MIB,
        "Memory/GPU_Utilization_Percent": _memory_percent(own_gpus(reading)),
        "Memory/Process_RSS_MB": None if rss is None else rss / MIB,
        "Memory/Host_Percent": reading.memory_percent,
        "Memory/Pressure_Level": reading.memory_pressure_level,
        "System/CPU_Percent": reading.cpu_percent,
    }
    for gpu in reading.gpus:
        group = f"GPU_{gpu.index}"
        values[f"{group}/Utilization_Percent"] = gpu.utilization_percent
        values[f"{group}/Memory_Usage_Percent"] = _memory_percent((gpu,))
        values[f"{group}/Temperature_C"] = gpu.temperature_c
        values[f"{group}/Power_W"] = gpu.power_w
    return known_scalars(values, step)


def _memory_percent(gpus: Iterable[GpuReading]) -> float | None:
    """Return the share of these GPUs' memory that is in use, by whomever."""
    known = [
        (gpu.memory_used_bytes, gpu.memory_total_bytes)
        for gpu in gpus
        if gpu.memory_used_bytes is not None and gpu.memory_total_bytes
    ]
    total = sum(total for _, total in known)
    return 100.0 * sum(used for used, _ in known) / total if total else None


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
