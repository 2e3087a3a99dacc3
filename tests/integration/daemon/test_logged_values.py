"""Every value that a training logs stands in TensorBoard at its step, at the default rate too."""

from pathlib import Path

import pytest
import torch
from daemon_process import DaemonProcess, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from written import load

from trackside.session import Session, attach
from trackside.wire.ring import RingReader

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NUM_VALUES = 60
MAX_BYTES = 4 << 20  # kept between two records
AROUND_BYTES = 40  # of each value, beside its name


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def training(
    out: Path, every: int, ring_bytes: int = 64 << 20
) -> tuple[Session, torch.optim.Optimizer]:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    session = attach(
        model,
        optimizer,
        every=every,
        save_dir=out,
        attention=False,
        ring_bytes=ring_bytes,
        autostart=False,
    )
    return session, optimizer


def tensorboard(out: Path) -> EventAccumulator:
    found = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return found


def is_taken_in(directory: Path) -> bool:
    (path,) = directory.glob("*.ring")
    reader = RingReader.open(path, read_only=True)
    try:
        return reader.lag_bytes == 0
    finally:
        reader.close()


def is_drained(directory: Path) -> bool:
    return not list(directory.glob("*.ring"))


def test_sixty_values_a_step_all_arrive(shm_dir: Path, out: Path, daemon: DaemonProcess) -> None:
    daemon.start()
    session, optimizer = training(out, every=100)

    for step in range(1, 251):
        optimizer.step()
        session.log(
            **{f"group/value{i}": torch.tensor(step + i / 64) for i in range(NUM_VALUES // 2)},
            **{f"plain{i}": step * i for i in range(NUM_VALUES // 2)},
        )
    session.close()
    wait_until(lambda: is_drained(shm_dir))

    found = tensorboard(out)
    for i in range(NUM_VALUES // 2):
        tensors = [(event.step, event.value) for event in found.Scalars(f"group/value{i}")]
        plain = [(event.step, event.value) for event in found.Scalars(f"Custom/plain{i}")]
        assert tensors == [(step, step + i / 64) for step in range(1, 251)]
        assert plain == [(step, step * i) for step in range(1, 251)]
    assert load(out / "training_statistics.json")["dropped"] == {}


def test_a_flood_is_bounded_and_what_is_lost_is_counted(
    shm_dir: Path, out: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    session, optimizer = training(out, every=1000)
    names = [f"flood/value{i:03d}" for i in range(100)]

    for step in range(1, 1000):
        optimizer.step()
        session.log(**dict.fromkeys(names, step))
    optimizer.step()
    session.close()
    wait_until(lambda: is_drained(shm_dir))

    kept = MAX_BYTES // (AROUND_BYTES + len(names[0]))
    assert load(out / "training_statistics.json")["dropped"] == {"log_full": 99_900 - kept}
    found = tensorboard(out)
    steps = [[event.step for event in found.Scalars(name)] for name in names]
    assert sum(map(len, steps)) == kept
    assert all(seen == list(range(seen[0], 1000)) for seen in steps)  # the newest ones


def test_values_wait_for_a_daemon_that_makes_room(
    shm_dir: Path, out: Path, daemon: DaemonProcess
) -> None:
    session, optimizer = training(out, every=1, ring_bytes=1 << 14)

    # 16 KiB hold some 10 samples, and an eighth of them 49 values.
    for step in range(1, 51):
        optimizer.step()
        session.log(a=step)
        if step == 40:
            daemon.start()
            wait_until(lambda: is_taken_in(shm_dir))
    session.close()
    wait_until(lambda: is_drained(shm_dir))

    assert "ring_full" in load(out / "training_statistics.json")["dropped"]
    found = [(event.step, event.value) for event in tensorboard(out).Scalars("Custom/a")]
    assert found == [(step, step) for step in range(1, 51)]
