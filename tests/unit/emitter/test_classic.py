"""The classic monitors, against attention computed by hand and against an unwatched training."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import trackside
from trackside.wire import segment

Receive = Callable[[], Any]
WIDTH, HEADS, VOCABULARY = 8, 2, 11


class Model(nn.Module):
    """One layer of self attention, of an encoder or, with a second input, across."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.3)
        self.num_forwards = 0

    def project(self, enc: torch.Tensor, dec: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        split = (HEADS, WIDTH // HEADS)
        query = self.query(self.embedding(dec)).unflatten(-1, split).transpose(1, 2)
        key = self.key(self.embedding(enc)).unflatten(-1, split).transpose(1, 2)
        return query, key

    def forward(self, enc: torch.Tensor, dec: torch.Tensor | None = None) -> torch.Tensor:
        self.num_forwards += 1
        query, key = self.project(enc, enc if dec is None else dec)
        mixed = functional.scaled_dot_product_attention(query, key, key)
        mixed = self.norm(mixed.transpose(1, 2).flatten(2).transpose(1, 2))
        return self.dropout(mixed).square().mean()


def attention_by_hand(model: Model, enc: torch.Tensor, dec: torch.Tensor) -> np.ndarray:
    """Return [heads, queries, keys] of the first sample, in float64."""
    with torch.no_grad():
        query, key = (tensor[0].double().numpy() for tensor in model.project(enc, dec))
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def captured(sample: Any) -> np.ndarray:
    """Return [heads, queries, keys] of the only attention of a record."""
    (kept,) = sample.attention
    logits = kept.query.astype(np.float64) @ kept.key.astype(np.float64).transpose(0, 2, 1)
    logits *= kept.call.scale
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture(autouse=True)
def quiet(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRACKSIDE_AUTOSTART", "0")
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 20))
    yield
    for path in segment.scan(shm_dir):
        segment.remove(path)


class Training:
    """A loop that calls a monitor as the guides do."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)
        self.expected: dict[int, np.ndarray] = {}
        self.losses: dict[int, float] = {}

    def run(
        self,
        monitor: Any,
        steps: range,
        *,
        is_logged_first: bool = False,
        epoch_of: Callable[[int], int | None] = lambda _: None,
        is_due: Callable[[int], bool] = lambda _: True,
    ) -> None:
        for step in steps:
            enc, dec = torch.randint(VOCABULARY, (3, 5)), torch.randint(VOCABULARY, (3, 4))
            # As training sees it: before the optimizer changes the weights.
            self.expected[step] = attention_by_hand(self.model, enc, dec)
            loss = self.model(enc, dec)
            self.losses[step] = loss.item()
            loss.backward()
            if is_logged_first and monitor is not None and is_due(step):
                monitor.log_attention(self.model, enc, dec, step, loss, epoch_of(step))
            self.optimizer.step()
            self.optimizer.zero_grad()
            if not is_logged_first and monitor is not None and is_due(step):
                monitor.log_attention(self.model, enc, dec, step, loss, epoch_of(step))


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


def test_without_training_the_model_is_run_once_on_the_inputs(
    receive: Receive, tmp_path: Path
) -> None:
    model = Model()
    enc = torch.randint(VOCABULARY, (2, 6))

    with trackside.TrainingAttentionMonitor(tmp_path, save_frequency=2) as monitor:
        for step in (2, 3, 4):
            monitor.log_attention(model, enc, None, step, 0.25)

    received = receive()
    assert [sample.step.step for sample in received.samples] == [2, 4]
    assert model.num_forwards == 2
    np.testing.assert_allclose(
        captured(received.samples[1]), attention_by_hand(model, enc, enc), atol=1e-6
    )
    assert received.steps[1].loss == 0.25
    assert received.steps[1].learning_rate is None
    assert received.samples[1].gradients is None


def test_inputs_may_be_keywords(receive: Receive, tmp_path: Path) -> None:
    model, enc = Model(), torch.randint(VOCABULARY, (2, 6))
    dec = torch.randint(VOCABULARY, (2, 3))

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, {"enc": enc, "dec": dec}, None, 100, 0.0)

    (sample,) = receive().samples
    np.testing.assert_allclose(captured(sample), attention_by_hand(model, enc, dec), atol=1e-6)


def test_a_forward_of_our_own_leaves_nothing_behind(receive: Receive, tmp_path: Path) -> None:
    model = Model()
    model.dropout.eval()  # a part that the user has frozen
    running_mean = model.norm.running_mean.clone()
    random.seed(1)
    states = random.getstate(), torch.get_rng_state()
    enc = torch.randint(VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, enc, None, 100, 0.0)

    assert model.num_forwards == 1
    assert [module.training for module in (model, model.norm, model.dropout)] == [True, True, False]
    assert torch.equal(model.norm.running_mean, running_mean)
    assert (random.getstate(), True) == (states[0], torch.equal(torch.get_rng_state(), states[1]))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(receive().samples) == 1


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


def test_a_model_that_cannot_be_run_is_reported_and_training_goes_on(
    receive: Receive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model()

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, "no tensor", None, 100, 0.5)

    assert "a forward for log_attention failed" in caplog.text
    (step,) = receive().steps
    assert (step.loss, step.attention) == (0.5, ())
    assert model.training


def test_an_encoder_with_padding_is_captured_off_its_fast_path(
    receive: Receive, tmp_path: Path
) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    padding = torch.tensor([[False, False, False, True], [False, False, True, True]])
    inputs = {"src": torch.randn(2, 4, WIDTH), "src_key_padding_mask": padding}

    with trackside.LightweightAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, inputs, None, 50, 0.0)

    (step,) = receive().steps
    assert [attention.module for attention in step.attention] == [
        "layers.0.self_attn",
        "layers.1.self_attn",
    ]


def test_keywords_reach_the_daemon(receive: Receive, tmp_path: Path) -> None:
    monitor = trackside.TrainingAttentionMonitor(
        tmp_path, 7, (), ("multi_head",), 2, 1, None, "all", save_raw_weights=True
    )
    enc = torch.randint(VOCABULARY, (2, 6))
    model = Model()
    monitor.log_attention(model, enc, None, 7, 0.0)
    monitor.close()

    received = receive()
    hello = received.hello
    assert (hello.save_dir, hello.every, hello.save_raw) == (str(tmp_path), 7, True)
    assert hello.visualize == ("multi_head",)
    expected = attention_by_hand(model, enc[1:], enc[1:])  # the second sample
    np.testing.assert_allclose(captured(received.samples[0]), expected, atol=1e-6)


def test_the_lightweight_monitor_asks_for_statistics_only(receive: Receive, tmp_path: Path) -> None:
    training = Training()
    with trackside.LightweightAttentionMonitor(tmp_path, save_frequency=2) as monitor:
        training.run(monitor, range(1, 3))

    received = receive()
    assert received.hello.visualize == ("statistics",)
    assert received.samples[0].gradients is None
    assert len(received.steps[0].attention) == 1


def test_what_the_daemon_decides_is_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trackside.TrainingAttentionMonitor(tmp_path)
    assert not caplog.records

    trackside.TrainingAttentionMonitor(
        tmp_path, max_workers=4, use_tensorboard=False, tensorboard_log_dir="elsewhere"
    )

    (record,) = caplog.records
    for word in ("max_workers=4", "use_tensorboard=False", "elsewhere", "<save_dir>/tensorboard"):
        assert word in record.getMessage()


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


def test_rank_one_sends_no_attention_and_runs_no_forward(
    receive: Receive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    model, enc = Model(), torch.randint(VOCABULARY, (2, 6))

    with trackside.TrainingAttentionMonitor(tmp_path) as monitor:
        monitor.log_attention(model, enc, None, 100, 0.5)

    (step,) = receive().steps
    assert (step.step, step.loss, step.attention) == (100, 0.5, ())
    assert model.num_forwards == 0
