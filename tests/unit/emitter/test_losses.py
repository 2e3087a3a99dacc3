"""The loss of a step is that of the gradients in it, whoever else calls backward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from regression import make_regression
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate

from trackside.session import Session

Attach = Callable[..., Session]
Receive = Callable[[], Any]


def _loss(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(5, 4)).square().mean()


def test_another_model_s_loss_is_not_taken_for_one_s_own(
    quiet_attach: Attach, receive: Receive
) -> None:
    """As in a GAN: each model is the other's neighbour in the loop."""
    model, optimizer = make_regression()
    other, other_optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    losses = []

    for _ in range(2):
        other_optimizer.zero_grad()
        (100 * _loss(other)).backward()
        other_optimizer.step()
        optimizer.zero_grad()
        for _ in range(2):  # accumulated
            losses.append(_loss(model))
            losses[-1].backward()
        optimizer.step()
        (100 * _loss(other)).backward()

    first, second = receive().steps
    assert first.loss == pytest.approx((losses[0].item() + losses[1].item()) / 2)
    assert second.loss == pytest.approx((losses[2].item() + losses[3].item()) / 2)
    assert (first.micro_batches, second.micro_batches) == (2, 2)


def test_a_loss_whose_gradients_reach_the_model_and_are_dropped_is_not_taken(
    quiet_attach: Attach, receive: Receive
) -> None:
    """As the generator's loss, which goes through the discriminator."""
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=2)

    for _ in range(2):
        (100 * _loss(model)).backward()
        optimizer.zero_grad()
        loss = _loss(model)
        loss.backward()
        optimizer.step()

    (step,) = receive().steps
    assert step.loss == pytest.approx(loss.item())
    assert step.micro_batches == 1


def test_a_step_that_a_loss_scaler_skips_leaves_no_loss_behind(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    quiet_attach(model, optimizer, every=1)

    for is_skipped in (True, False):
        optimizer.zero_grad()
        loss = _loss(model)
        scaler.scale(loss).backward()
        if is_skipped:
            next(model.parameters()).grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()

    (step,) = receive().steps
    assert step.amp_scale == 512.0
    assert step.loss == pytest.approx(loss.item())
    assert step.micro_batches == 1


def test_a_backward_that_raises_leaves_no_loss_behind(
    quiet_attach: Attach, receive: Receive
) -> None:
    """Out of memory, say: the loop drops the batch and goes on with the next."""
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    loss = _loss(model)
    loss.register_hook(_raise)
    with pytest.raises(MemoryError):
        (100 * loss).backward()

    optimizer.zero_grad()
    loss = _loss(model)
    loss.backward()
    optimizer.step()

    (step,) = receive().steps
    assert step.loss == pytest.approx(loss.item())


def test_several_losses_of_one_step_all_count(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)
    first, second = _loss(model), _loss(model)

    first.backward()
    second.backward()
    optimizer.step()
    session.close()  # until then the step might be given a loss by hand

    (step,) = receive().steps
    assert step.loss == pytest.approx((first.item() + second.item()) / 2)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("placement", [Replicate(), Partial()])
def test_a_loss_of_several_ranks_is_known_where_each_has_the_whole(
    quiet_attach: Attach, receive: Receive, placement: Placement
) -> None:
    """As under loss_parallel."""
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=2)
    mesh = init_device_mesh("cpu", (1,))

    for _ in range(2):
        loss = _loss(model)
        DTensor.from_local(loss, mesh, [placement]).backward()
        optimizer.step()
    session.close()

    received = receive()
    expected = loss.item() if placement.is_replicate() else None
    assert [step.loss for step in received.steps] == [expected]
    assert received.close.loss == expected


def test_a_root_in_a_list_is_a_loss_where_no_gradient_is_given(
    quiet_attach: Attach, receive: Receive
) -> None:
    """As torch.distributed.pipelining calls it: stages before the last give gradients."""
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)
    loss, other = _loss(model), _loss(model)

    torch.autograd.backward([loss], [None])
    torch.autograd.backward([other], [torch.ones(())])
    optimizer.step()
    session.close()

    (step,) = receive().steps
    assert step.loss == pytest.approx(loss.item())
    assert step.micro_batches == 1


@pytest.mark.parametrize("every", [1, 3])
def test_an_optimizer_that_steps_in_backward_has_the_loss_of_that_backward(
    quiet_attach: Attach, receive: Receive, every: int
) -> None:
    """One for each parameter, to keep no gradients: a sample is armed in the backward before."""
    model, _ = make_regression()
    for parameter in model.parameters():
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        parameter.register_post_accumulate_grad_hook(_step_at_once(optimizer))
    session = quiet_attach(model, every=every)

    losses = []
    for _ in range(6):
        losses.append(_loss(model))
        losses[-1].backward()
    session.close()

    steps = receive().steps
    assert [step.step for step in steps] == list(range(every, 7, every))
    for step in steps:
        assert step.loss == pytest.approx(losses[step.step - 1].item())
        assert step.micro_batches == 1
        assert step.clipped is False


def test_a_closure_that_is_called_many_times_in_a_step_counts_once(
    quiet_attach: Attach, receive: Receive
) -> None:
    """As by LBFGS: what a step is told by is what its first call found."""
    model, _ = make_regression()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    quiet_attach(model, optimizer, every=1)
    calls: list[tuple[float, float]] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(5, 4)).square().mean()
        loss.backward()
        norms = torch.stack([parameter.grad.norm() for parameter in model.parameters()])
        calls.append((loss.item(), norms.norm().item()))
        return loss

    firsts = []
    for _ in range(2):
        firsts.append(len(calls))
        optimizer.step(closure)

    assert firsts[1] > 2
    received = receive()
    assert received.drops == {}
    for step, first in zip(received.steps, firsts, strict=True):
        assert (step.loss, step.norm_after_clip) == pytest.approx(calls[first])
        assert step.micro_batches == 1


def _step_at_once(optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], None]:
    def step(_: torch.Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    return step


def _raise(_: torch.Tensor) -> None:
    raise MemoryError
