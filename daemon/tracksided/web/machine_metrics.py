"""Metrics of the machine: what the daemon's monitors read when the newest step was taken."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from tracksided.web.fields import count, number, objects, text

PERCENT = 0.01  # Prometheus' base unit of shares is a ratio

# Name, help, field of the reading and what makes the base unit of it.
_HOST = (
    ("host_cpu_ratio", "Busy share of all cores.", "cpu_percent", PERCENT),
    ("host_memory_used_ratio", "Share of memory that is not available.", "memory_percent", PERCENT),
    (
        "host_memory_pressure_level",
        "0 none, 1 some, 2 high, 3 critical.",
        "memory_pressure_level",
        1,
    ),
    ("host_cgroup_memory_bytes", "Used in the tightest cgroup.", "cgroup_memory_bytes", 1),
    (
        "host_cgroup_memory_limit_bytes",
        "Limit of that cgroup.",
        "cgroup_memory_limit_bytes",
        1,
    ),
    ("host_reading_timestamp_seconds", "When the machine was looked at.", "timestamp", 1),
)
_GPU = (
    ("gpu_utilization_ratio", "Share of time with a kernel.", "utilization_percent", PERCENT),
    ("gpu_memory_used_bytes", "Memory that is used.", "memory_used_bytes", 1),
    ("gpu_memory_total_bytes", "Memory that there is.", "memory_total_bytes", 1),
    ("gpu_temperature_celsius", "Temperature of the chip.", "temperature_c", 1),
    ("gpu_power_watts", "Power that is drawn.", "power_w", 1),
)
_DISK = (
    ("disk_free_bytes", "Free for this user on the file system of a path.", "free_bytes", 1),
    ("disk_total_bytes", "Size of the file system of a path.", "total_bytes", 1),
)
_PROCESS = (
    ("rank_resident_memory_bytes", "Memory of a rank with its children.", "rss_bytes", 1),
    ("rank_cpu_cores", "Cores that a rank keeps busy with its children.", "cpu_percent", PERCENT),
    ("rank_gpu_memory_bytes", "Memory of a rank on all GPUs.", "gpu_memory_bytes", 1),
)


def machine_metrics(newest: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Yield the metrics of the machine and of the ranks' processes.

    Args:
        newest: name of a run to the last line of its ``history.jsonl``.
    """
    readings = {run: host for run, line in newest.items() if (host := _host(line)) is not None}
    host = max(readings.values(), key=_timestamp, default={})
    yield from _families(_HOST, (), [((), host)])
    yield from _families(
        _DISK, ("path",), [((text(disk, "path") or "",), disk) for disk in objects(host, "disks")]
    )
    yield from _families(
        _GPU, ("gpu",), [((str(count(gpu, "index")),), gpu) for gpu in objects(host, "gpus")]
    )
    processes = {
        (run, str(count(process, "rank"))): process
        for run, reading in readings.items()
        for process in objects(reading, "processes")
    }
    yield from _families(_PROCESS, ("run", "rank"), list(processes.items()))


def _families(
    rows: Iterable[tuple[str, str, str, float]],
    labels: tuple[str, ...],
    entries: list[tuple[tuple[str, ...], Mapping[str, Any]]],
) -> Iterator[Metric]:
    for name, documentation, key, factor in rows:
        family = GaugeMetricFamily(f"trackside_{name}", documentation, labels=labels)
        for identity, entry in dict(entries).items():
            value = number(entry, key)
            if value is not None:
                family.add_metric(identity, value * factor)
        yield family


def _host(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    host = line.get("host")
    return host if isinstance(host, dict) else None


def _timestamp(host: Mapping[str, Any]) -> float:
    return number(host, "timestamp") or 0.0
