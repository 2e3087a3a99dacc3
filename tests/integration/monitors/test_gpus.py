"""What is read of GPUs, through the real pynvml and a fake driver library, in the real child."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from daemon_process import wait_until

from tracksided.monitors.monitor import Watched
from tracksided.monitors.reading import GpuReading, HostReading
from tracksided.monitors.service import MonitorService
from tracksided.monitors.settings import MonitorSettings

pytestmark = pytest.mark.integration

SetGpus = Callable[[str], None]
GIB = 1 << 30
FULL = f"""\
count 1
0.uuid GPU-1234
0.name NVIDIA Fake 100
0.utilization 37
0.memory_total {80 * GIB}
0.memory_used {20 * GIB}
0.memory_used_and_reserved {21 * GIB}
0.temperature 71
0.slowdown 92
0.milliwatts 350250
0.reasons {0x4 | 0x40}
"""


class Clock:
    """A service whose time is moved by hand, so that no test waits for an interval."""

    def __init__(self, **settings: bool) -> None:
        self.service = MonitorService(MonitorSettings(every_seconds=10.0, **settings))
        self.now = time.monotonic()

    def read(self, watched: Watched | None = None) -> HostReading:
        """Take one reading."""
        self.now += 10.0
        before = self.service.latest(self.now)
        self.service.poll(self.now)
        assert self.service.is_due(self.now)
        self.service.ask(watched or Watched(), self.now)

        def has_come() -> bool:
            self.service.poll(self.now)
            return self.service.latest(self.now) is not before

        wait_until(has_come)
        reading = self.service.latest(self.now)
        assert reading is not None
        return reading

    def lose(self) -> None:
        """Ask for a reading that hangs or dies at the GPUs, and wait until it is given up."""
        self.now += 10.0
        self.service.ask(Watched(), self.now)

        def is_there() -> bool:
            self.service.poll(self.now)
            return self.service._at == "gpus" or self.service.problem is not None

        wait_until(is_there)

        def is_lost() -> bool:
            self.now += 1.0
            self.service.poll(self.now)
            return self.service.problem is not None

        wait_until(is_lost)


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.service.close()


def test_every_field_of_a_gpu(clock: Clock, set_gpus: SetGpus) -> None:
    set_gpus(FULL)

    (gpu,) = clock.read().gpus

    assert gpu == GpuReading(
        index=0,
        uuid="GPU-1234",
        name="NVIDIA Fake 100",
        utilization_percent=37.0,
        memory_used_bytes=20 * GIB,
        memory_total_bytes=80 * GIB,
        temperature_c=71.0,
        slowdown_temperature_c=92.0,
        power_w=350.25,
        throttle_reasons=("sw_power_cap", "hw_thermal_slowdown"),
    )


def test_an_old_driver_is_asked_by_older_calls(clock: Clock, set_gpus: SetGpus) -> None:
    missing = (
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetCurrentClocksEventReasons",
    )
    set_gpus(FULL + "".join(f"no.{name} 1\n" for name in missing))

    (gpu,) = clock.read().gpus

    assert gpu.memory_used_bytes == 21 * GIB  # version 1 cannot tell apart what is reserved
    assert gpu.temperature_c == 71.0
    assert gpu.throttle_reasons == ("sw_power_cap", "hw_thermal_slowdown")


def test_a_gpu_without_a_threshold_tells_its_margin(clock: Clock, set_gpus: SetGpus) -> None:
    set_gpus("count 1\n0.temperature 60\n0.margin 27\n")

    (gpu,) = clock.read().gpus

    assert gpu.slowdown_temperature_c == 87.0


def test_what_a_gpu_does_not_support_is_unknown(clock: Clock, set_gpus: SetGpus) -> None:
    set_gpus("count 1\n0.milliwatts 0\n")

    (gpu,) = clock.read().gpus

    assert gpu == GpuReading(index=0, power_w=0.0)


def test_a_lost_gpu_costs_its_own_fields_only(clock: Clock, set_gpus: SetGpus) -> None:
    set_gpus("count 2\n0.lost 1\n0.utilization 5\n0.process.1 5\n1.utilization 9\n")

    lost, sound = clock.read().gpus

    assert (lost.index, lost.utilization_percent) == (0, None)
    assert (sound.index, sound.utilization_percent) == (1, 9.0)


def test_a_gpu_that_cannot_be_opened_does_not_cost_the_memory_of_others(
    clock: Clock, set_gpus: SetGpus
) -> None:
    set_gpus("count 2\n0.unreachable 1\n1.xid 79\n")
    clock.read()
    set_gpus("count 2\n0.unreachable 1\n1.xid 48\n")

    (gpu,) = clock.read().gpus

    assert gpu.index == 1
    assert [error.code for error in gpu.xid_errors] == [79, 48]


def test_memory_of_a_rank_is_found_through_its_process(clock: Clock, set_gpus: SetGpus) -> None:
    pid = os.getpid()
    set_gpus(
        "count 3\n"
        f"0.process.{pid} 1000\n0.process.1 5000\n"  # of the init process: not ours
        f"1.process.{pid} 300\n1.process.999999999 7\n"
        f"2.process.{os.getppid()} 9\n"
    )

    process = clock.read(Watched(ranks={pid: 2})).processes[pid]

    assert (process.rank, process.gpu_memory_bytes, process.gpu_indices) == (2, 1300, (0, 1))


def test_memory_of_a_child_belongs_to_its_rank(clock: Clock, set_gpus: SetGpus) -> None:
    set_gpus("count 1\n")
    clock.read()
    child = clock.service.pid  # a child of this process
    set_gpus(f"count 1\n0.process.{child} 77\n")

    process = clock.read(Watched(ranks={os.getpid(): 0})).processes[os.getpid()]

    assert process.gpu_memory_bytes == 77


@pytest.mark.parametrize("entry", ["", "0.process.{pid} -1\n"])
def test_memory_that_nvml_does_not_tell_is_unknown(
    clock: Clock, set_gpus: SetGpus, entry: str
) -> None:
    set_gpus("count 1\n" + entry.format(pid=os.getpid()))

    process = clock.read(Watched(ranks={os.getpid(): 0})).processes[os.getpid()]

    assert (process.gpu_memory_bytes, process.gpu_indices) == (None, None)
    assert process.rss_bytes


def test_an_xid_is_noticed_and_kept(clock: Clock, set_gpus: SetGpus) -> None:
    set_gpus("count 2\n")
    assert clock.read().gpus[1].xid_errors == ()
    start = time.time()

    set_gpus("count 2\n1.xid 79\n")
    (error,) = clock.read().gpus[1].xid_errors
    set_gpus("count 2\n1.xid 48\n")
    first, second = clock.read().gpus[1].xid_errors

    assert (first, error.code, second.code) == (error, 79, 48)
    assert start <= first.timestamp <= second.timestamp


def test_a_driver_that_is_loaded_later_is_found(clock: Clock, set_gpus: SetGpus) -> None:
    assert clock.read().gpus == ()

    set_gpus("count 1\n")

    assert [gpu.index for gpu in clock.read().gpus] == [0]


def test_a_driver_that_goes_away_leaves_the_rest(clock: Clock, set_gpus: SetGpus) -> None:
    set_gpus("count 1\n")
    assert len(clock.read().gpus) == 1

    set_gpus("")
    reading = clock.read()

    assert reading.gpus == ()
    assert reading.memory_percent is not None


def test_gpus_may_be_switched_off(set_gpus: SetGpus) -> None:
    set_gpus("count 1\ncrash 1\n")
    clock = Clock(gpus=False)
    try:
        assert clock.read().gpus == ()
        assert clock.service.problem is None
    finally:
        clock.service.close()


@pytest.mark.parametrize("fault", ["hang", "crash"])
def test_a_driver_that_hangs_or_crashes_costs_the_gpus_only(
    clock: Clock, set_gpus: SetGpus, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    set_gpus("count 1\n")
    clock.read()
    first = clock.service.pid
    set_gpus(f"count 1\n{fault} 1\n")
    clock.lose()
    reading = clock.read()

    assert clock.service.pid != first
    assert "gpus" in str(clock.service.problem)
    assert reading.gpus == ()
    assert reading.memory_percent is not None
    set_gpus("count 1\n")
    clock.now += 60.0
    assert len(clock.read().gpus) == 1
    assert clock.service.problem is None
    assert len([record for record in caplog.records if "gpus" in record.message]) == 2


def test_a_child_that_dies_between_readings_is_nobodys_fault(clock: Clock) -> None:
    clock.read()
    assert clock.service.pid is not None
    os.kill(clock.service.pid, signal.SIGKILL)

    def is_lost() -> bool:
        clock.service.poll(clock.now)
        return clock.service.pid is None

    wait_until(is_lost)
    assert not clock.service.is_due(clock.now + 59.0)
    clock.now += 60.0

    assert clock.read().disks == ()
    assert clock.read(Watched(paths=("/",))).disks[0].path == "/"


def test_a_child_that_cannot_be_killed_keeps_its_monitor_left_out(
    clock: Clock, set_gpus: SetGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus("count 1\n")
    clock.read()
    assert clock.service.pid is not None
    wedged = psutil.Process(clock.service.pid)
    with monkeypatch.context() as context:
        context.setattr(subprocess.Popen, "kill", lambda _: None)
        set_gpus("count 1\nhang 1\n")
        clock.lose()
    set_gpus("count 1\n")
    clock.now += 600.0

    before = clock.read()
    wedged.kill()
    wait_until(lambda: not wedged.is_running() or wedged.status() == psutil.STATUS_ZOMBIE)
    after = clock.read()

    assert before.gpus == ()
    assert len(after.gpus) == 1
