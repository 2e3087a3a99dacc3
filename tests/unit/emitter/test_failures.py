"""Failure is free: training goes on, and what is lost is counted."""

import gc
import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trackside.capture.scalars import LossWatch
from trackside.recorder import Recorder
from trackside.session import Session, attach
from trackside.wire import segment
from trackside.wire.ring import RingReader

Attach = Callable[..., Session]
Receive = Callable[[], Any]


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(3, 8)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _build() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def _bare_losses(steps: int) -> list[float]:
    model, optimizer = _build()
    return _train(model, optimizer, steps)


def test_a_full_ring_drops_and_training_goes_on(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = _build()
    session = quiet_attach(model, optimizer, every=1, ring_bytes=1 << 14)

    losses = _train(model, optimizer, 40)
    session.close()

    assert losses == _bare_losses(40)
    received = receive()
    numbers = [step.step for step in received.steps]
    assert numbers[0] == 1
    assert numbers == sorted(set(numbers))
    assert received.drops["ring_full"] >= 40 - len(numbers)
    assert "ring_full" in caplog.text


def test_scalars_survive_where_gradients_do_not_fit(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = _build()
    quiet_attach(model, optimizer, every=1, ring_bytes=1536)

    losses = _train(model, optimizer, 1)

    received = receive()
    (step,) = received.steps
    assert step.gradients is None
    assert step.loss == losses[0]
    assert step.norm_after_clip is not None
    assert received.drops == {"too_large": 1}
    assert step.dropped == {"too_large": 1}


def test_logged_values_survive_a_full_ring(
    quiet_attach: Attach, receive: Receive, shm_dir: Path
) -> None:
    model, optimizer = _build()
    session = quiet_attach(model, optimizer, every=1, ring_bytes=1536)
    _train(model, optimizer, 10)
    session.log(kept=7.0)
    _train(model, optimizer, 1)

    (path,) = segment.scan(shm_dir)
    reader = RingReader.open(path)
    while (record := reader.poll()) is not None:
        reader.commit(record.end)
    del record
    reader.close()
    _train(model, optimizer, 1)

    (step,) = receive().steps
    assert [(entry.name, entry.value) for entry in step.scalars] == [("kept", 7.0)]


@pytest.mark.parametrize("place", ["_begin", "_finish", "_arm"])
def test_three_exceptions_detach_and_training_is_unchanged(
    quiet_attach: Attach,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
) -> None:
    calls = []

    def fail(*_: object) -> None:
        calls.append(place)
        raise RuntimeError("broken on purpose")

    model, optimizer = _build()
    monkeypatch.setattr(Recorder, place, fail)
    quiet_attach(model, optimizer, every=1)

    losses = _train(model, optimizer, 8)

    assert losses == _bare_losses(8)
    assert len(calls) == 3
    assert caplog.text.count("training goes on") == 1
    assert caplog.text.count("detached after 3 errors") == 1


def test_everything_is_unhooked_after_the_third_exception(
    quiet_attach: Attach, monkeypatch: pytest.MonkeyPatch, shm_dir: Path
) -> None:
    model, optimizer = _build()
    monkeypatch.setattr(Recorder, "_finish", _raise)
    backward = torch.autograd.backward
    quiet_attach(model, optimizer, every=1)

    _train(model, optimizer, 4)

    assert torch.autograd.backward is backward
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not model._forward_pre_hooks
    (path,) = segment.scan(shm_dir)
    assert not segment.is_writer_alive(path)


def test_errors_are_counted_as_drops(
    quiet_attach: Attach, monkeypatch: pytest.MonkeyPatch, receive: Receive
) -> None:
    model, optimizer = _build()
    monkeypatch.setattr(Recorder, "_finish", _raise)
    quiet_attach(model, optimizer, every=4)

    _train(model, optimizer, 8)

    assert receive().drops == {"error": 2}


def _raise(*_: object, **__: object) -> None:
    raise RuntimeError("broken on purpose")


def test_a_forked_child_is_silent(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = _build()
    session = quiet_attach(model, optimizer, every=1)
    _train(model, optimizer, 1)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            _train(model, optimizer, 3)
            session.log(x=1.0)
            session.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0
    _train(model, optimizer, 1)

    assert [step.step for step in receive().steps] == [1, 2]


def test_without_shared_memory_training_goes_on(
    quiet_attach: Attach, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKSIDE_SHM_DIR", "/nowhere/at/all")
    model, optimizer = _build()

    with quiet_attach(model, optimizer, every=1):
        losses = _train(model, optimizer, 2)

    assert losses == _bare_losses(2)
    assert "nothing will be recorded" in caplog.text
    assert "TRACKSIDE_SHM_DIR" in caplog.text
    assert "3 other" in caplog.records[-1].getMessage()  # two steps and the end


def test_a_ring_that_does_not_fit_is_said_with_its_mend(
    quiet_attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = _build()

    with quiet_attach(model, optimizer, ring_bytes=1 << 40):
        _train(model, optimizer, 1)

    assert "ring_bytes=" in caplog.text


def test_a_directory_open_to_others_is_refused(
    quiet_attach: Attach, shm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shm_dir.chmod(0o755)
    model, optimizer = _build()

    with quiet_attach(model, optimizer):
        _train(model, optimizer, 1)

    assert "chmod 700" in caplog.text
    shm_dir.chmod(0o700)


def test_whatever_fails_in_attach_costs_only_the_session(
    quiet_attach: Attach, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trackside.parts.identify", _raise)
    model, optimizer = _build()

    with quiet_attach(model, optimizer, every=1) as session:
        losses = _train(model, optimizer, 2)

    assert losses == _bare_losses(2)
    assert session.run is None
    assert "nothing will be recorded: RuntimeError" in caplog.text


def test_what_fails_in_attach_leaves_no_segment_behind(
    quiet_attach: Attach, monkeypatch: pytest.MonkeyPatch, shm_dir: Path
) -> None:
    """A daemon would wait for its end as long as this process lives."""
    monkeypatch.setattr("trackside.recorder.make_gradient_tap", _raise)
    model, optimizer = _build()

    session = quiet_attach(model, optimizer, every=1)

    assert session.run is None
    assert segment.scan(shm_dir) == ()


def test_a_step_in_a_graph_capture_is_left_alone(
    quiet_attach: Attach, monkeypatch: pytest.MonkeyPatch, receive: Receive
) -> None:
    model, optimizer = _build()
    quiet_attach(model, optimizer, every=1)
    monkeypatch.setattr("trackside.staging.Cuda.can_copy", lambda _: False)

    losses = _train(model, optimizer, 2)

    assert losses == _bare_losses(2)
    received = receive()
    assert received.samples == ()
    assert received.drops == {"copy_late": 2}


def test_a_socket_path_that_is_too_long_costs_only_the_bell(
    quiet_attach: Attach,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = tmp_path / ("d" * 120)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("TRACKSIDE_SHM_DIR", str(long))
    model, optimizer = _build()

    with quiet_attach(model, optimizer, every=1) as session:
        _train(model, optimizer, 2)

    assert "will look by itself" in caplog.text
    assert session.step == 2
    assert len(segment.scan(long)) == 1
    assert all(record.levelno <= logging.WARNING for record in caplog.records)


def test_a_spawned_process_may_attach_by_itself(shm_dir: Path) -> None:
    assert multiprocessing.current_process().name == "MainProcess"
    model, optimizer = _build()

    with attach(model, optimizer, autostart=False, ring_bytes=4096, run="own"):
        (path,) = segment.scan(shm_dir)

    assert path.name.startswith(f"own.r0.{os.getpid()}.")
    segment.remove(path)


def test_a_sampled_step_that_never_ends_keeps_no_more_for_each_backward() -> None:
    watch = LossWatch()
    watch.is_sampling = True
    losses = [torch.tensor(float(i)) for i in range(1, 501)]

    for loss in losses[:2]:
        watch.on_backward((loss,), {})
    before = _num_tensors()
    for loss in losses[2:]:
        watch.on_backward((loss,), {})

    assert _num_tensors() - before <= 1
    assert watch.of_step(None) == sum(range(1, 501)) / 500


def _num_tensors() -> int:
    return sum(type(entry) is torch.Tensor for entry in gc.get_objects())


def test_a_training_without_an_optimizer_is_told_once(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = _build()
    quiet_attach(model, None, every=1)

    for _ in range(300):
        model(torch.randn(2, 8)).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.01 * parameter.grad)
                parameter.grad = None

    assert receive().steps == ()
    assert len([r for r in caplog.records if "no step" in r.message]) == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_a_scripted_model_takes_no_hooks_and_the_rest_is_recorded(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = _build()
    scripted = torch.jit.script(model)
    optimizer = torch.optim.SGD(scripted.parameters(), lr=0.1)
    quiet_attach(scripted, optimizer, every=1)

    losses = _train(scripted, optimizer, 4)

    received = receive()
    assert [step.loss for step in received.steps] == losses
    assert received.drops == {}
    (record,) = caplog.records
    assert "the model is TorchScript" in record.message


def test_an_optimizer_that_is_replaced_is_told(
    quiet_attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = _build()
    quiet_attach(model, optimizer, every=100, attention=False)
    _train(model, optimizer, 1)
    assert caplog.records == []

    another = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(300):
        model(torch.ones(1, 8)).sum().backward()
        another.step()

    (record,) = caplog.records
    assert "takes the place of another" in record.message


def test_an_orderly_end_is_told_by_a_full_ring(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = _build()
    session = quiet_attach(model, optimizer, every=1, ring_bytes=1 << 16)

    _train(model, optimizer, 200)
    session.text("notes", "x" * 5000)  # more than the room that is kept
    session.close()

    received = receive()
    assert received.drops["ring_full"] > 0
    assert received.close is not None
    assert (received.close.steps, received.close.sampled) == (200, 200)
    assert received.close.published == len(received.steps) < 200
    assert "ring_full" in caplog.text
