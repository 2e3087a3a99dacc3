"""The norm before clipping is an L2 norm of true gradients, whatever norm was clipped by."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from regression import make_regression
from torch import nn

from trackside.session import Session

Attach = Callable[..., Session]
Receive = Callable[[], Any]


def _norm(model: nn.Module) -> float:
    parts = [p.grad.double().square().sum().item() for p in model.parameters()]
    return math.sqrt(sum(parts))


def _backward(model: nn.Module, scaler: torch.amp.GradScaler | None = None) -> None:
    model.zero_grad()
    loss = model(torch.randn(5, 4)).square().mean()
    (loss if scaler is None else scaler.scale(loss)).backward()


@pytest.mark.parametrize("order", [1.0, 3, math.inf, "inf"])
@pytest.mark.parametrize("limit", [1e-3, 1e3])
@pytest.mark.parametrize("every", [1, 2])
def test_of_another_order_the_l2_norm_is_recorded(
    quiet_attach: Attach, receive: Receive, order: float, limit: float, every: int
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=every)
    expected = []

    for _ in range(4):
        _backward(model)
        before = _norm(model)
        nn.utils.clip_grad_norm_(model.parameters(), limit, order)
        expected.append((before, _norm(model)))
        optimizer.step()

    steps = receive().steps
    assert [step.step for step in steps] == list(range(every, 5, every))
    for step in steps:
        before, after = expected[step.step - 1]
        assert step.norm_before_clip == pytest.approx(before, rel=1e-5)
        assert step.local_gradient_norm == step.norm_before_clip
        assert step.norm_after_clip == pytest.approx(after, rel=1e-5)
        assert (step.clipped, step.max_norm) == (limit < 1, limit)
        assert step.clip_rate == (1.0 if limit < 1 else 0.0)
        assert step.norm_peak is None


def test_of_another_order_and_without_gradients_no_norm_is_known(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1, gradients=False)

    _backward(model)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3, math.inf)
    optimizer.step()

    (step,) = receive().steps
    assert (step.norm_before_clip, step.norm_after_clip) == (None, None)
    assert (step.clipped, step.max_norm) == (True, 1e-3)


@pytest.mark.parametrize("limit", [1e-3, 1e3])
@pytest.mark.parametrize("is_unscaled", [True, False])
def test_clipping_of_scaled_gradients_is_recorded_without_the_scale_and_told(
    quiet_attach: Attach,
    receive: Receive,
    caplog: pytest.LogCaptureFixture,
    limit: float,
    *,
    is_unscaled: bool,
) -> None:
    model, optimizer = make_regression()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    quiet_attach(model, optimizer, every=1, attention=False)
    expected = []

    for _ in range(2):
        _backward(model, scaler)
        if is_unscaled:
            scaler.unscale_(optimizer)
        scale = 1.0 if is_unscaled else 1024.0
        before = _norm(model) / scale
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        expected.append((before, _norm(model) / scale, limit / scale))
        scaler.step(optimizer)
        scaler.update()

    steps = receive().steps
    assert len(steps) == 2
    for step, numbers in zip(steps, expected, strict=True):
        found = (step.norm_before_clip, step.norm_after_clip, step.max_norm)
        assert found == pytest.approx(numbers, rel=1e-5)
        assert step.clipped is (limit < 1)
        assert (step.norm_peak is None) is not is_unscaled
    told = [record.message for record in caplog.records]
    assert [("scaler.unscale_(optimizer)" in message) for message in told] == (
        [] if is_unscaled else [True]
    )
