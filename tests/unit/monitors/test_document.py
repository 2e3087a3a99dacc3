"""What becomes of a reading."""

import json

import pytest

from tracksided.monitors.document import host_object, host_scalars
from tracksided.monitors.reading import (
    DiskReading,
    GpuReading,
    HostReading,
    ProcessReading,
    XidError,
)

GIB = 1 << 30


def tags(reading: HostReading) -> dict[str, float]:
    return {scalar.tag: scalar.value for scalar in host_scalars(reading, 5)}


def test_every_tag_of_a_full_reading() -> None:
    reading = HostReading(
        timestamp=1.0,
        cpu_percent=25.0,
        memory_percent=50.0,
        memory_pressure_level=2,
        gpus=(
            GpuReading(
                index=1,
                utilization_percent=90.0,
                memory_used_bytes=20 * GIB,
                memory_total_bytes=80 * GIB,
                temperature_c=70.0,
                power_w=350.5,
            ),
        ),
        processes={
            10: ProcessReading(rank=0, rss_bytes=3 << 20, gpu_memory_bytes=5 << 20),
            11: ProcessReading(rank=1, rss_bytes=4 << 20, gpu_memory_bytes=6 << 20),
        },
    )

    assert tags(reading) == {
        "Memory/GPU_Allocated_MB": 11.0,
        "Memory/GPU_Utilization_Percent": 25.0,
        "Memory/Process_RSS_MB": 7.0,
        "Memory/Host_Percent": 50.0,
        "Memory/Pressure_Level": 2.0,
        "System/CPU_Percent": 25.0,
        "GPU_1/Utilization_Percent": 90.0,
        "GPU_1/Memory_Usage_Percent": 25.0,
        "GPU_1/Temperature_C": 70.0,
        "GPU_1/Power_W": 350.5,
    }
    assert {scalar.step for scalar in host_scalars(reading, 5)} == {5}


def test_unknown_values_write_no_point() -> None:
    reading = HostReading(timestamp=1.0, gpus=(GpuReading(index=0),), processes={})

    assert tags(reading) == {}


def test_only_the_gpus_of_the_run_count_for_its_memory() -> None:
    gpus = tuple(
        GpuReading(index=index, memory_used_bytes=used * GIB, memory_total_bytes=100 * GIB)
        for index, used in enumerate((10, 30, 80))
    )
    process = ProcessReading(rank=0, gpu_memory_bytes=GIB, gpu_indices=(0, 1))

    own = tags(HostReading(timestamp=1.0, gpus=gpus, processes={7: process}))
    unknown = tags(HostReading(timestamp=1.0, gpus=gpus))

    assert own["Memory/GPU_Utilization_Percent"] == pytest.approx(20.0)
    assert unknown["Memory/GPU_Utilization_Percent"] == pytest.approx(40.0)


def test_the_object_of_a_line_is_plain_json() -> None:
    reading = HostReading(
        timestamp=1.0,
        disks=(DiskReading(path="/out", free_bytes=1, total_bytes=2),),
        gpus=(
            GpuReading(
                index=0,
                throttle_reasons=("sw_power_cap",),
                xid_errors=(XidError(timestamp=0.5, code=79),),
            ),
        ),
        processes={11: ProcessReading(rank=1), 10: ProcessReading(rank=2, rss_bytes=5)},
    )

    document = json.loads(json.dumps(host_object(reading)))

    assert document["timestamp"] == 1.0
    assert document["cpu_percent"] is None
    assert document["disks"] == [{"path": "/out", "free_bytes": 1, "total_bytes": 2}]
    assert document["gpus"][0]["throttle_reasons"] == ["sw_power_cap"]
    assert document["gpus"][0]["xid_errors"] == [{"timestamp": 0.5, "code": 79}]
    assert [(entry["rank"], entry["pid"]) for entry in document["processes"]] == [(1, 11), (2, 10)]
    assert document["processes"][1]["rss_bytes"] == 5
