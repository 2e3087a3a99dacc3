"""A real `Accelerator` trains a real encoder of two layers in a loop by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import ProjectConfiguration
from torch import nn
from torch.nn import functional

from trackside.integrations.accelerate import TracksideTracker

pytestmark = pytest.mark.integration

Receive = Callable[[], Any]
WIDTH, CLASSES, LENGTH, BATCHES = 16, 5, 8, 8


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(features).mean(1))


def train(
    tracker: TracksideTracker | None, *, accumulate: int = 1, **settings: Any
) -> tuple[nn.Module, list[float]]:
    """Train for one epoch; return the model and the loss of every micro-batch."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.manual_seed(0)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulate,
        log_with=tracker,
        **settings,
    )
    assert PartialState().num_processes == 1
    features, target = torch.randn(2 * BATCHES, LENGTH, WIDTH), torch.arange(2 * BATCHES) % CLASSES
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(features, target), batch_size=2
    )
    model = Classifier()
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.AdamW(model.parameters(), lr=1e-2), loader
    )
    accelerator.init_trackers("project", config={"lr": 1e-2})
    if tracker is not None:
        tracker.attach(model, optimizer)
    losses = []
    for batch, (inputs, wanted) in enumerate(loader, 1):
        with accelerator.accumulate(model):
            loss = functional.cross_entropy(model(inputs), wanted)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        accelerator.log({"train_loss": loss.detach(), "epoch": 1, "note": "fine"}, step=10 * batch)
    accelerator.end_training()
    return accelerator.unwrap_model(model), losses


ATTENTIONS = ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]


def test_steps_and_what_is_logged_are_in_the_records(receive: Receive) -> None:
    _, losses = train(TracksideTracker(every=2, run="acc"))

    received = receive()
    assert (received.hello.run, received.hello.config) == ("acc", {"lr": 1e-2})
    assert sorted(received.steps) == [2, 4, 6, 8]
    for number, step in received.steps.items():
        assert step.loss == pytest.approx(losses[number - 1], rel=1e-6)
        assert step.learning_rate == 1e-2
        assert step.epoch == 1
        assert received.modules(number) == ATTENTIONS
    # The script's own count, whatever it is, says where its values stand.
    expected = [(10 * batch, loss) for batch, loss in enumerate(losses, 1)]
    assert received.curve("train_loss") == expected
    assert received.steps[4].texts[0].text == "fine"
    assert (received.close.reason, received.close.steps) == ("closed", 8)


def test_the_loss_of_accumulated_micro_batches_is_their_mean(receive: Receive) -> None:
    _, losses = train(TracksideTracker(every=1), accumulate=2)

    received = receive()
    assert len(received.steps) == 4
    for number, step in received.steps.items():
        assert step.loss == pytest.approx(sum(losses[2 * number - 2 : 2 * number]) / 2, rel=1e-6)
        assert step.micro_batches == 2


def test_training_under_bfloat16_is_captured(receive: Receive) -> None:
    _, losses = train(TracksideTracker(every=4), mixed_precision="bf16")

    received = receive()
    assert received.steps[4].loss == pytest.approx(losses[3], rel=1e-6)
    assert received.modules(4) == ATTENTIONS


def test_training_is_bit_for_bit_what_it_is_without(receive: Receive) -> None:
    bare, bare_losses = train(None)
    bare_generator = torch.get_rng_state()
    watched, losses = train(TracksideTracker(every=1, layers=None))

    assert torch.equal(torch.get_rng_state(), bare_generator)
    assert losses == bare_losses
    for name, weight in bare.state_dict().items():
        assert torch.equal(weight, watched.state_dict()[name]), name
    assert len(receive().steps) == 8


@pytest.mark.parametrize(
    ("settings", "keywords", "announced"),
    [
        ({"automatic_checkpoint_naming": True}, {}, ["project/checkpoints"]),
        ({"automatic_checkpoint_naming": True}, {"checkpoints": "mine"}, ["mine"]),
        ({}, {}, []),
    ],
)
def test_the_directory_of_automatic_naming_is_announced(
    receive: Receive,
    tmp_path: Path,
    settings: dict[str, bool],
    keywords: dict[str, Any],
    announced: list[str],
) -> None:
    configuration = ProjectConfiguration(str(tmp_path / "project"), **settings)

    train(TracksideTracker(every=4, **keywords), project_config=configuration)

    assert [Path(path) for path in receive().hello.checkpoints] == [
        tmp_path / path for path in announced
    ]


def test_a_project_without_a_directory_announces_nothing(receive: Receive) -> None:
    train(
        TracksideTracker(every=4),
        project_config=ProjectConfiguration(automatic_checkpoint_naming=True),
    )

    assert list(receive().hello.checkpoints) == []


def test_settings_that_come_late_are_logged_as_a_text(receive: Receive) -> None:
    tracker = TracksideTracker(every=2)
    tracker.attach(nn.Linear(2, 2))

    tracker.store_init_configuration({"lr": 0.5})
    tracker.finish()

    received = receive()
    assert received.hello.config == {}
    (text,) = received.close.texts
    assert text.tag == "Config/Training_Settings"
    assert json.loads(text.text) == {"lr": 0.5}


def test_values_logged_before_attach_are_reported_lost(caplog: pytest.LogCaptureFixture) -> None:
    tracker = TracksideTracker()

    tracker.log({"loss": 1.0}, step=1)
    tracker.log({"loss": 1.0}, step=2)

    assert caplog.text.count("before tracker.attach") == 1
    assert tracker.tracker is None
