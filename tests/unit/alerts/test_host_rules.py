"""What each rule finds in readings of the machine that are made for it."""

from collections.abc import Sequence
from typing import Any

import pytest

from tracksided.alerts.averaging_failed import AveragingFailed
from tracksided.alerts.finding import Finding, HostRule
from tracksided.alerts.gpu_error import GpuError
from tracksided.alerts.gpu_temperature import GpuTemperature
from tracksided.alerts.gpu_underused import GpuUnderused
from tracksided.alerts.memory_growth import MemoryGrowth
from tracksided.alerts.memory_pressure import MemoryPressure
from tracksided.alerts.stalled_trainer import Liveness, StalledTrainer
from tracksided.monitors.reading import GpuReading, HostReading, ProcessReading, XidError

MIB = 1 << 20


def look(rule: HostRule, readings: Sequence[HostReading]) -> Finding | None:
    return rule.check(readings[-1], tuple(readings[:-1]))


def growing(field: str, values: Sequence[float]) -> list[HostReading]:
    return [
        HostReading(
            timestamp=float(n),
            processes={7: ProcessReading(rank=1, **{field: int(value * MIB)})},
        )
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize("field", ["rss_bytes", "gpu_memory_bytes"])
def test_memory_that_grows_steadily_is_a_leak(field: str) -> None:
    """90 readings from 1000 MiB: blocks of 15, medians 7 .. 82, the growth 75 steps."""
    leak = growing(field, [1000 + 5 * n for n in range(90)])

    finding = look(MemoryGrowth(), leak)

    assert finding is not None
    assert finding.rank == 1
    assert finding.value == 5 * 75 * MIB
    assert finding.threshold == 256 * MIB
    assert look(MemoryGrowth(), leak[1:]) is None


def test_memory_that_settles_or_grows_little_is_no_leak() -> None:
    rule = MemoryGrowth()
    settling = [1000 + 1000 * (1 - 0.95**n) for n in range(90)]
    sawtooth = [1000 + 20 * (n % 30) for n in range(90)]

    assert look(rule, growing("rss_bytes", settling)) is None
    assert look(rule, growing("rss_bytes", sawtooth)) is None
    assert look(rule, growing("rss_bytes", [1000 + n for n in range(90)])) is None  # 75 MiB
    assert look(rule, growing("rss_bytes", [20_000 + 5 * n for n in range(90)])) is None  # 1.9 %


def pressed(*levels: int | None) -> list[HostReading]:
    return [
        HostReading(timestamp=float(n), memory_pressure_level=level)
        for n, level in enumerate(levels)
    ]


@pytest.mark.parametrize(
    ("levels", "severity"),
    [
        ((2,), None),
        ((2, 1), None),
        ((1, 2), None),
        ((2, 2), "warning"),
        ((2, 3), "warning"),
        ((3, 3), "critical"),
        ((3, None), None),
    ],
)
def test_pressure_must_last_for_two_readings(
    levels: tuple[int | None, ...], severity: str | None
) -> None:
    finding = look(MemoryPressure(), pressed(*levels))

    assert (finding and finding.severity) == severity


def hot(*temperatures: float | None, **others: Any) -> list[HostReading]:
    return [
        HostReading(
            timestamp=float(n),
            gpus=(
                GpuReading(index=0, temperature_c=50.0),
                GpuReading(index=1, temperature_c=t, **others),
            ),
        )
        for n, t in enumerate(temperatures)
    ]


def test_gpu_above_85_c_is_hot_where_its_limit_is_not_known() -> None:
    rule = GpuTemperature()

    finding = look(rule, hot(86, 86))
    assert finding is not None
    assert (finding.severity, finding.value, finding.threshold) == ("warning", 86, 85.0)
    assert "GPU 1" in finding.message
    assert look(rule, hot(85, 85)) is None
    assert look(rule, hot(80, 86)) is None
    assert look(rule, hot(86)) is None


def test_margin_to_the_slowdown_limit_is_preferred() -> None:
    rule = GpuTemperature()

    assert look(rule, hot(88, 88, slowdown_temperature_c=95.0)) is None
    finding = look(rule, hot(83, 83, slowdown_temperature_c=87.0))
    assert finding is not None
    assert finding.threshold == 82.0


def test_throttling_is_critical_when_heat_is_its_reason() -> None:
    rule = GpuTemperature()

    finding = look(rule, hot(70, 70, throttle_reasons=("sw_power_cap", "hw_thermal_slowdown")))
    assert finding is not None
    assert finding.severity == "critical"
    assert look(rule, hot(70, 70, throttle_reasons=("gpu_idle", "sw_power_cap"))) is None


def used(percents: Sequence[float | None], indices: tuple[int, ...] | None) -> list[HostReading]:
    return [
        HostReading(
            timestamp=float(n),
            gpus=(
                GpuReading(index=0, utilization_percent=0.0),
                GpuReading(index=1, utilization_percent=percent),
            ),
            processes={7: ProcessReading(rank=0, gpu_indices=indices)},
        )
        for n, percent in enumerate(percents)
    ]


def test_gpu_of_the_run_that_mostly_waits_is_underused() -> None:
    rule = GpuUnderused()

    finding = look(rule, used([20.0, 30.0] * 30, (1,)))
    assert finding is not None
    assert finding.value == 25.0
    assert "GPU 1" in finding.message
    assert look(rule, used([30.0] * 60, (1,))) is None
    assert look(rule, used([20.0] * 59, (1,))) is None
    assert look(rule, used([20.0] * 59 + [None], (1,))) is None
    assert look(rule, used([20.0] * 60, None)) is None  # whose GPU it is, nobody knows


def test_driver_error_is_told_once_and_by_its_weight() -> None:
    def reading(now: float, *errors: XidError) -> HostReading:
        return HostReading(timestamp=now, gpus=(GpuReading(index=2, xid_errors=errors),))

    soft, hard = XidError(timestamp=101.0, code=31), XidError(timestamp=102.0, code=48)
    readings = [reading(100.0), reading(110.0, soft, hard), reading(120.0, soft, hard)]

    assert look(GpuError(), readings[:1]) is None
    finding = look(GpuError(), readings[:2])
    assert finding is not None
    assert (finding.severity, finding.value) == ("critical", 48.0)
    assert look(GpuError(), readings) is None
    assert look(GpuError(), [reading(1000.0, soft)]) is None  # before the run began


def test_silence_is_a_stall_after_ten_intervals_and_a_minute() -> None:
    rule = StalledTrainer()

    def check(silent_s: float, interval_s: float | None) -> Finding | None:
        return rule.check(Liveness(last_step=9, silent_s=silent_s, interval_s=interval_s))

    finding = check(101.0, 10.0)
    assert finding is not None
    assert (finding.severity, finding.value, finding.threshold) == ("critical", 101.0, 100.0)
    assert check(100.0, 10.0) is None
    assert check(59.0, 0.1) is None
    assert check(61.0, 0.1) is not None
    assert check(1e6, None) is None


def test_pause_after_which_training_went_on_is_no_stall_the_next_time() -> None:
    def check(silent_s: float) -> Finding | None:
        liveness = Liveness(last_step=9, silent_s=silent_s, interval_s=10.0, longest_s=300.0)
        return StalledTrainer().check(liveness)

    assert check(450.0) is None
    finding = check(451.0)
    assert finding is not None
    assert finding.threshold == 450.0


def test_averaging_that_fails_is_told_in_one_line() -> None:
    finding = AveragingFailed().check("a.pt is truncated\nhave another")

    assert finding is not None
    assert finding.message == "checkpoints could not be averaged: a.pt is truncated have another"
    assert AveragingFailed().check(None) is None
