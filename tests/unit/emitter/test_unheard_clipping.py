"""Clipping that torch's hooks do not hear is told from the gradients, whoever does it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from regression import make_regression
from torch import nn

from trackside.session import Session
from tracksided.clipping import infer_clipping
from tracksided.samples import StepSamples

Attach = Callable[..., Session]
Receive = Callable[[], Any]
Clip = Callable[[nn.Module], None]


def _norm(model: nn.Module) -> float:
    parts = [p.grad.double().square().sum().item() for p in model.parameters()]
    return math.sqrt(sum(parts))


def _by_hand(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad.mul_(0.12)


def _adaptively(model: nn.Module) -> None:
    """Scale each parameter by its own, as AGC does (Brock et al. 2021)."""
    for index, parameter in enumerate(model.parameters(), start=1):
        parameter.grad.div_(3.0 * index)


def _by_value(model: nn.Module) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 1e-3)


def _publish(attach: Attach, receive: Receive, clip: Clip | None) -> tuple[Any, float, float]:
    """Train two steps, the last of which is sampled; return its step and norms as they were."""
    model, optimizer = make_regression()
    session = attach(model, optimizer, every=2)
    before = after = math.nan
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(2):  # accumulated
            model(torch.randn(5, 4)).square().mean().backward()
        before = _norm(model)
        if clip is not None:
            clip(model)
        after = _norm(model)
        optimizer.step()
    session.close()
    (sample,) = receive().samples
    joined = infer_clipping(StepSamples("run", sample.step.step, (sample,)))
    return joined.leader.step, before, after


@pytest.mark.parametrize("clip", [_by_hand, _adaptively, _by_value])
def test_clipping_by_other_means_is_seen_with_its_norms(
    quiet_attach: Attach, receive: Receive, clip: Clip
) -> None:
    step, before, after = _publish(quiet_attach, receive, clip)

    assert step.norm_before_clip == pytest.approx(before, rel=1e-5)
    assert step.norm_after_clip == pytest.approx(after, rel=1e-5)
    assert step.local_gradient_norm == step.norm_before_clip
    assert (step.clipped, step.max_norm, step.clip_rate) == (True, None, None)


@pytest.mark.parametrize("num_parts", [2, 3, 4096])
def test_gradients_that_are_averaged_after_backward_are_not_clipped(
    quiet_attach: Attach,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
    num_parts: int,
) -> None:
    """As a pipeline does over micro-batches, and a loss that is a sum over tokens."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    def average(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.grad.div_(num_parts)

    step, before, after = _publish(quiet_attach, receive, average)

    assert after == pytest.approx(before / num_parts)
    assert step.norm_before_clip == step.norm_after_clip == pytest.approx(after, rel=1e-5)
    assert step.local_gradient_norm == pytest.approx(after, rel=1e-5)  # no other rank is there
    assert (step.clipped, step.clip_rate) == (False, 0.0)


def test_without_clipping_there_is_none(quiet_attach: Attach, receive: Receive) -> None:
    step, before, _ = _publish(quiet_attach, receive, None)

    assert step.norm_before_clip == step.norm_after_clip == pytest.approx(before, rel=1e-6)
    assert (step.clipped, step.clip_rate) == (False, 0.0)


def test_gradients_that_are_copied_after_backward_are_not_clipped(
    quiet_attach: Attach, receive: Receive
) -> None:
    """Those of weights in another precision: what they hold in backward is the step before's."""
    model, _ = make_regression()
    masters = [p.detach().double().requires_grad_() for p in model.parameters()]
    session = quiet_attach(model, optimizer := torch.optim.SGD(masters, lr=0.1), every=2)

    norms = []
    for scale in (100.0, 1.0):
        model.zero_grad()
        (scale * model(torch.randn(5, 4)).square().mean()).backward()
        norms.append(_norm(model))
        for master, parameter in zip(masters, model.parameters(), strict=True):
            master.grad = parameter.grad.double()
        optimizer.step()
    session.close()

    (sample,) = receive().samples
    step = infer_clipping(StepSamples("run", 2, (sample,))).leader.step
    assert norms[0] > 10 * norms[1]
    assert step.norm_before_clip == step.norm_after_clip == pytest.approx(norms[1], rel=1e-6)
    assert step.clipped is False


def test_a_gradient_that_grows_is_not_clipped(quiet_attach: Attach, receive: Receive) -> None:
    def grow(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.grad.mul_(4.0)

    step, before, after = _publish(quiet_attach, receive, grow)

    assert step.norm_before_clip == pytest.approx(before, rel=1e-5)
    assert after == pytest.approx(4 * before)
    assert step.clipped is False


def test_torch_s_own_clipping_speaks_for_itself(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    norms = []

    for _ in range(3):
        model(torch.randn(5, 4)).square().mean().backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1e-3).item())
        optimizer.step()

    samples = receive().samples
    assert [sample.gradients.unclipped for sample in samples] == [None] * 3
    assert [sample.step.norm_before_clip for sample in samples] == norms


def test_a_loss_scale_is_not_clipping(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0)  # not a power of two: it rounds
    quiet_attach(model, optimizer, every=1)

    scaler.scale(model(torch.randn(5, 4)).square().mean()).backward()
    scaler.step(optimizer)

    (sample,) = receive().samples
    joined = infer_clipping(StepSamples("run", 1, (sample,)))
    assert joined.leader.step.clipped is False
    assert joined.leader.step.norm_before_clip == sample.step.norm_after_clip


def test_a_gradient_that_was_set_to_zero_has_no_norm_before(
    quiet_attach: Attach, receive: Receive
) -> None:
    def wipe(model: nn.Module) -> None:
        next(iter(model.parameters())).grad.zero_()

    step, _, after = _publish(quiet_attach, receive, wipe)

    assert step.norm_after_clip == pytest.approx(after, rel=1e-6)
    assert step.norm_before_clip is None
    assert step.clipped is True


def test_backward_after_the_session_is_not_read(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)
    session.close()

    model(torch.randn(5, 4)).square().mean().backward()

    assert torch.autograd.backward.__module__.startswith("torch")
    assert not hasattr(torch.autograd.backward, "__wrapped__")
    assert receive().steps == ()
