"""The classic monitors in a training, against attention by hand and an unwatched training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classic_training import VOCABULARY, Model, Training, attention_by_hand, captured

import trackside
from trackside.wire import segment

pytestmark = pytest.mark.usefixtures("quiet_monitors")

Receive = Callable[[], Any]


@pytest.fixture
def training() -> Training:
    return Training()


@pytest.mark.parametrize("is_logged_first", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_attention_is_that_of_the_training_step_without_a_forward_more(
    training: Training, receive: Receive, tmp_path: Path, *, is_logged_first: bool, first: int
) -> None:
    steps = range(first, first + 10)
    with trackside.TrainingAttentionMonitor(tmp_path, save_frequency=3) as monitor:
        training.run(monitor, steps, is_logged_first=is_logged_first)

    received = receive()
    due = [step for step in steps if step % 3 == 0]
    assert [sample.step.step for sample in received.samples] == due
    # Step 0 is the first call, whose forward nobody could have watched.
    assert training.model.num_forwards == len(steps) + (first == 0)
    for sample in received.samples[first == 0 :]:
        np.testing.assert_allclose(captured(sample), training.expected[sample.step.step], atol=1e-6)
        assert sample.step.loss == pytest.approx(training.losses[sample.step.step])
        assert sample.step.learning_rate == 0.5
        assert sample.gradients.names[0] == "embedding.weight"


def test_a_monitor_that_is_called_at_due_steps_only_needs_one_forward_at_most(
    training: Training, receive: Receive, tmp_path: Path
) -> None:
    with trackside.TrainingAttentionMonitor(tmp_path, save_frequency=4) as monitor:
        training.run(monitor, range(1, 13), is_due=lambda step: step % 4 == 0)

    received = receive()
    assert [sample.step.step for sample in received.samples] == [4, 8, 12]
    assert training.model.num_forwards == 12 + 1
    np.testing.assert_allclose(captured(received.samples[2]), training.expected[12], atol=1e-6)


def test_training_is_bit_for_bit_what_it_is_without(tmp_path: Path, receive: Receive) -> None:
    bare, watched = Training(), Training()

    torch.manual_seed(3)
    bare.run(None, range(8))
    bare_generator = torch.get_rng_state()
    torch.manual_seed(3)
    with trackside.TrainingAttentionMonitor(tmp_path, 2, layers_to_visualize=None) as monitor:
        watched.run(monitor, range(8), epoch_of=lambda step: step // 3)

    assert torch.equal(torch.get_rng_state(), bare_generator)
    assert watched.losses == bare.losses
    for name, value in bare.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    assert len(receive().samples) == 4


def test_the_first_call_of_an_epoch_is_saved_under_its_name(
    training: Training, receive: Receive, tmp_path: Path
) -> None:
    with trackside.TrainingAttentionMonitor(tmp_path, 100, save_on_epochs=(1, 3)) as monitor:
        training.run(monitor, range(1, 9), epoch_of=lambda step: step // 2)

    steps = receive().steps
    assert [(step.step, step.epoch, step.epoch_requested) for step in steps] == [
        (2, 1, True),
        (6, 3, True),
    ]
    assert all(len(step.attention) == 1 for step in steps)


def test_a_step_that_the_optimizer_never_takes_is_saved_all_the_same(
    training: Training, receive: Receive, tmp_path: Path
) -> None:
    with trackside.TrainingAttentionMonitor(tmp_path, save_frequency=3) as monitor:
        training.run(monitor, range(1, 3), is_logged_first=True)
        enc, dec = torch.randint(VOCABULARY, (3, 5)), torch.randint(VOCABULARY, (3, 4))
        training.model(enc, dec).backward()
        monitor.log_attention(training.model, enc, dec, 3, 1.5)  # then the loop ends

    (sample,) = receive().samples
    assert (sample.step.step, sample.step.loss) == (3, 1.5)
    assert training.model.num_forwards == 3
    np.testing.assert_allclose(
        captured(sample), attention_by_hand(training.model, enc, dec), atol=1e-6
    )


def test_a_validation_in_between_is_not_taken_for_the_training(
    training: Training, receive: Receive, tmp_path: Path
) -> None:
    monitor = trackside.TrainingAttentionMonitor(tmp_path, save_frequency=2)
    model, optimizer = training.model, training.optimizer
    expected = {}
    for step in range(1, 5):
        enc = torch.randint(VOCABULARY, (3, 5))
        expected[step] = attention_by_hand(model, enc, enc)
        model(enc).backward()
        optimizer.step()
        with torch.no_grad():
            model(torch.randint(VOCABULARY, (3, 7)))
        monitor.log_attention(model, enc, None, step, 0.0)
    monitor.close()

    for sample in receive().samples:
        np.testing.assert_allclose(captured(sample), expected[sample.step.step], atol=1e-6)
    assert model.num_forwards == 8


def test_an_exception_closes_the_session(receive: Receive, tmp_path: Path) -> None:
    training = Training()

    def burn(step: int) -> int:
        if step == 3:
            raise RuntimeError("on fire")
        return 0

    with (
        pytest.raises(RuntimeError, match="on fire"),
        trackside.TrainingAttentionMonitor(tmp_path, 2) as monitor,
    ):
        training.run(monitor, range(1, 4), epoch_of=burn)

    assert receive().close.reason == "failed: RuntimeError"
    assert not training.model._forward_hooks


def test_a_closed_monitor_does_nothing(shm_dir: Path, tmp_path: Path) -> None:
    monitor = trackside.TrainingAttentionMonitor(tmp_path)
    monitor.close()
    model = Model()

    monitor.log_attention(model, torch.zeros(1, 2, dtype=torch.long), None, 0, 0.0)

    assert model.num_forwards == 0
    assert not segment.scan(shm_dir)


def test_switched_off_it_runs_no_forward(
    shm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKSIDE", "0")
    model = Model()

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, torch.zeros(1, 2, dtype=torch.long), None, 0, 0.0)

    assert model.num_forwards == 0
    assert not segment.scan(shm_dir)


def test_steps_that_go_back_are_published_with_a_note(
    receive: Receive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, enc = Model(), torch.randint(VOCABULARY, (2, 6))

    with trackside.TrainingAttentionMonitor(tmp_path, save_frequency=1) as monitor:
        for step in (1, 2, 1, 2, 2):
            monitor.log_attention(model, enc, None, step, 0.0)

    assert [step.step for step in receive().steps] == [1, 2, 1, 2]
    assert "steps should grow" in caplog.text
