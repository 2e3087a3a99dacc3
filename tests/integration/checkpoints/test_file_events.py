"""A daemon that polls once an hour averages what it hears of; one that hears nothing polls."""

import errno
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from averaging_service import Clock, averaged, save, settle
from daemon_process import DaemonProcess, wait_until
from safetensors.torch import load_file, save_file

from tracksided.checkpoints import events as events_module
from tracksided.checkpoints import service as service_module
from tracksided.checkpoints import watched as watched_module
from tracksided.checkpoints.events import DirectoryEvents, Kernel
from tracksided.checkpoints.service import CheckpointService
from tracksided.checkpoints.watcher import Look

pytestmark = pytest.mark.integration

AN_HOUR_S = 3600.0
# The shell that the daemon takes the place of may have no more watches than this.
WITHOUT_WATCHES = (
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_inotify_watches && exec "$@"',
    "sh",
)  # fmt: skip - a command line


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoints"
    made.mkdir()
    return made


@pytest.fixture
def start(daemon: DaemonProcess, directory: Path, tmp_path: Path) -> Callable[..., DaemonProcess]:
    """Start a daemon that watches the directory, and wait until it does."""

    def run(poll_seconds: float = AN_HOUR_S, prefix: Iterable[str] = ()) -> DaemonProcess:
        settings = tmp_path / "daemon.toml"
        settings.write_text(
            f'[checkpoints]\ndirectories = ["{directory}"]\npoll_seconds = {poll_seconds}\n'
        )
        daemon.start("--config", str(settings), prefix=tuple(prefix))
        wait_until((daemon.directory / "status.json").exists)
        return daemon

    return run


def entry(daemon: DaemonProcess) -> dict[str, object]:
    (found,) = daemon.status["checkpoints"]["directories"]
    return dict(found)


def sources(path: Path) -> list[str]:
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return []
    return [source["name"] for source in provenance["sources"]]


def test_files_are_averaged_without_a_poll_renamed_or_written_in_place(
    directory: Path, start: Callable[..., DaemonProcess]
) -> None:
    daemon = start()
    for step in (1, 2, 3):
        torch.save({"w": torch.full((10,), float(step))}, directory / "tmp")
        (directory / "tmp").rename(directory / f"step_{step}.pt")
    description = directory / "averaged_model.json"
    wait_until(lambda: sources(description) == ["step_1.pt", "step_2.pt", "step_3.pt"])
    assert torch.equal(averaged(directory), torch.full((10,), 2.0))

    save(directory, 7)

    wait_until(lambda: sources(description)[-1:] == ["step_7.pt"])
    assert torch.equal(averaged(directory), torch.full((10,), 13 / 4))
    assert entry(daemon)["polled_because"] is None
    assert daemon.stop() == 0


def test_directories_are_averaged_without_a_poll_as_the_trainer_fills_them(
    directory: Path, start: Callable[..., DaemonProcess]
) -> None:
    start()
    for step in (10, 20, 30):
        made = directory / f"checkpoint-{step}"
        made.mkdir()
        (made / "config.json").write_text("{}")
        save_file({"w": torch.full((10,), float(step))}, made / "model.safetensors")
        torch.save({"state": {}}, made / "optimizer.pt")
        (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    description = directory / "averaged" / "averaging.json"
    wait_until(lambda: len(sources(description)) == 3)

    staged = directory / "tmp-checkpoint-40"
    staged.mkdir()
    save_file({"w": torch.full((10,), 40.0)}, staged / "model.safetensors")
    (staged / "trainer_state.json").write_text(json.dumps({"global_step": 40}))
    staged.rename(directory / "checkpoint-40")

    wait_until(lambda: sources(description)[-1:] == ["checkpoint-40"])
    found = load_file(directory / "averaged" / "model.safetensors")["w"]
    assert torch.equal(found, torch.full((10,), 25.0))


def test_a_file_that_is_appended_to_is_read_when_that_has_ended(
    directory: Path, start: Callable[..., DaemonProcess]
) -> None:
    start()
    save(directory, 1, 2, 3, 4)
    whole = (directory / "step_4.pt").read_bytes()
    (directory / "step_4.pt").unlink()
    part = len(whole) // 20 + 1
    for offset in range(0, len(whole), part):
        with (directory / "step_4.pt").open("ab") as file:
            file.write(whole[offset : offset + part])
        time.sleep(0.05)  # the writer's pace; no matter how slow, it must be averaged in the end

    wait_until(lambda: len(sources(directory / "averaged_model.json")) == 4)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Count the looks of services in this process."""
    counted: list[Path] = []
    really_look = service_module.look

    def look(directory: Path) -> Look:
        counted.append(directory)
        return really_look(directory)

    monkeypatch.setattr(service_module, "look", look)
    return counted


def poll_on(service: CheckpointService, clock: Clock, seconds: float = 10.0) -> None:
    for _ in range(round(seconds / 0.05)):
        service.poll(clock.tick(0.05))


def test_own_outputs_and_own_reads_bring_no_further_look(
    directory: Path,
    clock: Clock,
    looks: list[Path],
    make_service: Callable[..., CheckpointService],
) -> None:
    service = make_service(poll_seconds=AN_HOUR_S)
    service.watch(directory, run=None)
    service.poll(clock.tick(0.05))
    save(directory, 1, 2, 3)
    poll_on(service, clock, 1.0)
    assert service.is_busy()
    assert [event.sources for event in settle(service, clock)] == [
        ("step_1.pt", "step_2.pt", "step_3.pt")
    ]
    assert (directory / "averaged_model.json").exists()
    num_looks = len(looks)

    poll_on(service, clock)

    assert len(looks) == num_looks
    assert not service.is_busy()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the events that are read, by call."""
    counted: list[int] = []
    really_parse = events_module.parse_events

    def parse(received: bytes) -> list[tuple[int, int, int, str]]:
        parsed: list[tuple[int, int, int, str]] = really_parse(received)
        counted.append(len(parsed))
        return parsed

    monkeypatch.setattr(events_module, "parse_events", parse)
    return counted


@pytest.mark.parametrize("name", ["step_4.pt", "events.log"])
def test_a_storm_of_writes_brings_few_events_and_looks(
    directory: Path, clock: Clock, looks: list[Path], heard: list[int], name: str
) -> None:
    service = CheckpointService(poll_seconds=AN_HOUR_S)
    service.watch(directory, run=None)
    save(directory, 1)
    service.poll(clock.tick(0.05))
    for number in range(60_000):
        with (directory / name).open("ab", buffering=0) as file:
            file.write(b"x")
        if number % 500 == 0:
            service.poll(clock.tick(0.05))
    poll_on(service, clock)
    service.close()

    # The kernel makes one event of those that follow each other and are alike.
    assert 0 < sum(heard) <= 3 * 60_000 / 500
    assert len(looks) <= 4  # at the start, when that has stayed, and twice after the storm


def test_an_overflow_of_the_kernels_queue_is_survived_and_looked_after(
    directory: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    service = make_service(poll_seconds=AN_HOUR_S, min_checkpoints=2)
    service.watch(directory, run=None)
    service.poll(clock.tick(0.05))
    names = [directory / "a.pt", directory / "b.pt"]
    bound = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    for number in range(bound + 10):  # other than those alike, these are kept apart
        os.close(os.open(names[number % 2], os.O_WRONLY | os.O_CREAT))
    save(directory, 1, 2)  # nobody tells

    poll_on(service, clock)

    (event,) = settle(service, clock)
    assert event.sources == ("step_1.pt", "step_2.pt")


def test_events_that_nobody_can_understand_cost_no_average_and_are_followed_anew(
    directory: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def misunderstand(received: bytes) -> list[tuple[int, int, int, str]]:
        raise KeyError(len(received))

    service = make_service(poll_seconds=5.0)
    service.watch(directory, run=None)
    service.poll(clock.tick())
    save(directory, 1, 2, 3)

    with monkeypatch.context() as patch:
        patch.setattr(events_module, "parse_events", misunderstand)
        (event,) = settle(service, clock)

    assert event.sources == ("step_1.pt", "step_2.pt", "step_3.pt")
    assert caplog.text.count("file-system events: nobody foresaw this") == 1
    service.poll(clock.tick())
    assert service.descriptors(clock.tick()) != ()
    (directory / "step_4.pt").touch()
    service.poll(clock.tick(0.2))
    assert service.wait_s(clock.now) < 5.0  # the look is hastened


def test_after_an_unforeseen_error_it_waits_for_the_next_poll(
    directory: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: Path) -> Look:
        raise ZeroDivisionError("nobody foresaw it")

    service = make_service(poll_seconds=AN_HOUR_S)
    service.watch(directory, run=None)
    service.poll(clock.tick())
    save(directory, 1, 2, 3)
    service.poll(clock.tick())

    with monkeypatch.context() as patch:
        patch.setattr(service_module, "look", fail)
        patch.setattr(watched_module, "placement_for", fail)  # so that this cannot be told either
        assert service.poll(clock.tick()) == ()

    assert math.isinf(service.wait_s(clock.tick()))
    assert "this failure is not reported" in caplog.text
    for _ in range(2):
        service.poll(clock.tick(AN_HOUR_S))
    (event,) = settle(service, clock)
    assert event.step == 3


def has_user_namespaces() -> bool:
    command = [*WITHOUT_WATCHES, "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_without_inotify_it_is_polled(
    directory: Path, clock: Clock, make_service: Callable[..., CheckpointService]
) -> None:
    def refuse() -> Kernel:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    service = make_service(events=DirectoryEvents(refuse))
    service.watch(directory, run=None)
    service.poll(clock.tick())
    save(directory, 1, 2, 3)

    assert service.descriptors(clock.now) == ()
    assert math.isinf(service.wait_s(clock.now))
    (event,) = settle(service, clock)
    assert event.error is None


@pytest.mark.skipif(not has_user_namespaces(), reason="needs user namespaces")
def test_where_the_kernel_refuses_watches_it_is_polled_and_said_once(
    directory: Path, start: Callable[..., DaemonProcess]
) -> None:
    daemon = start(poll_seconds=0.2, prefix=WITHOUT_WATCHES)

    save(directory, 1, 2, 3)

    wait_until(lambda: len(sources(directory / "averaged_model.json")) == 3)
    reason = "no inotify watches are left to this user (sysctl fs.inotify.max_user_watches)"
    wait_until(lambda: entry(daemon)["polled_because"] == reason)
    assert daemon.output.count(reason) == 1
