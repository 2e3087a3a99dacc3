"""What integrations ask of a session: its count, shares of a loss, forwards of other names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trackside.session import Session, attach

Attach = Callable[..., Session]
Receive = Callable[[], Any]


class Model(nn.Module):
    """Trained through a method: its own forward is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(x).unflatten(-1, (2, 2)).transpose(1, 2)
        return functional.scaled_dot_product_attention(hidden, hidden, hidden).square().mean()


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def optimizer(model: Model) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _batch() -> torch.Tensor:
    return torch.randn(3, 5, 4)


def test_a_count_is_taken_over_exactly(
    quiet_attach: Attach, receive: Receive, model: Model, optimizer: torch.optim.Optimizer
) -> None:
    session = quiet_attach(model, optimizer, every=3)
    session.follow(1)  # one that was done before: `log(step=1)` would let it pass
    for done in (2, 3):
        model.loss(_batch()).backward()
        optimizer.step()
        session.follow(done)

    assert session.step == 3
    assert [step.step for step in receive().steps] == [3]


def test_a_step_that_was_skipped_is_counted_and_not_sampled(
    quiet_attach: Attach, receive: Receive, model: Model, optimizer: torch.optim.Optimizer
) -> None:
    session = quiet_attach(model, optimizer, every=2)
    model.loss(_batch()).backward()
    optimizer.step()
    session.follow(1)

    model.loss(_batch()).backward()
    session.follow(2)  # by a loss scaler, and the framework counts it
    model.loss(_batch()).backward()
    optimizer.step()
    session.follow(3)

    assert receive().steps == ()


def test_shares_of_micro_batches_are_summed(
    quiet_attach: Attach, receive: Receive, model: Model, optimizer: torch.optim.Optimizer
) -> None:
    session = quiet_attach(model, optimizer, every=1)
    session.sum_micro_batches()
    shares = []
    for _ in range(3):
        share = model.loss(_batch()) / 3
        share.backward()
        shares.append(share.item())
    optimizer.step()
    session.close()

    received = receive()
    assert received.steps[0].loss == pytest.approx(sum(shares), rel=1e-6)
    # The last backward saw a share only: the last loss is that of the last record.
    assert received.close.loss == received.steps[0].loss


def test_a_block_is_taken_for_a_forward(
    quiet_attach: Attach, receive: Receive, model: Model, optimizer: torch.optim.Optimizer
) -> None:
    session = quiet_attach(model, optimizer, every=2)
    for _ in range(4):
        with session.forward():
            loss = model.loss(_batch())
        loss.backward()
        optimizer.step()

    steps = receive().steps
    assert [step.step for step in steps] == [2, 4]
    assert [len(step.attention) for step in steps] == [1, 1]


def test_a_model_that_is_trained_without_being_called_is_told_what_to_do(
    quiet_attach: Attach,
    model: Model,
    optimizer: torch.optim.Optimizer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quiet_attach(model, optimizer, every=2)

    for _ in range(6):
        model.loss(_batch()).backward()
        optimizer.step()

    (record,) = caplog.records
    assert "only model(...) is watched" in record.message
    assert "with session.forward():" in record.message


def test_an_epoch_that_is_told_after_the_forward_is_no_reason_to_complain(
    quiet_attach: Attach,
    model: Model,
    optimizer: torch.optim.Optimizer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = quiet_attach(model, optimizer, every=100, epochs=(1,))

    loss = model.loss(_batch())
    session.log(epoch=1)
    loss.backward()
    optimizer.step()

    assert caplog.records == []


def test_a_block_ends_with_the_first_backward_in_it(
    quiet_attach: Attach, receive: Receive, model: Model, optimizer: torch.optim.Optimizer
) -> None:
    session = quiet_attach(model, optimizer, every=2)
    for _ in range(2):
        with session.forward():
            model.loss(_batch()).backward()
            model.loss(_batch())  # of no step
            optimizer.step()
            assert not torch.overrides._get_current_function_mode_stack()

    (step,) = receive().steps
    assert len(step.attention) == 1
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_block_that_raises_keeps_nothing(
    quiet_attach: Attach, receive: Receive, model: Model, optimizer: torch.optim.Optimizer
) -> None:
    session = quiet_attach(model, optimizer, every=1)

    def fail() -> None:
        model.loss(_batch())
        raise RuntimeError("on fire")

    with pytest.raises(RuntimeError, match="on fire"), session.forward():
        fail()
    optimizer.step()

    assert receive().steps[0].attention == ()
    assert not torch.overrides._get_current_function_mode_stack()


def test_values_of_another_count_leave_the_steps_alone(
    quiet_attach: Attach, receive: Receive, model: Model, optimizer: torch.optim.Optimizer
) -> None:
    session = quiet_attach(model, optimizer, every=1)

    session.log_at(70, {"loss": torch.tensor(2.0), "Eval/f1": 0.5, "name": "text"})
    model.loss(_batch()).backward()
    optimizer.step()

    (step,) = receive().steps
    assert step.step == 1
    assert [(entry.step, entry.name, entry.value) for entry in step.scalars] == [
        (70, "loss", 2.0),
        (70, "Eval/f1", 0.5),
    ]


def test_switched_off_all_of_it_does_nothing(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setenv("TRACKSIDE", "0")
    session = attach(model)

    session.follow(3)
    session.sum_micro_batches()
    session.log_at(1, {"a": 1.0})
    with session.forward():
        model.loss(_batch())

    assert session.step == 0
