"""Two models that train in one process: each session has the losses and norms of its own."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from received import Received, read_segment
from regression import make_regression
from torch import nn

from trackside.session import Session
from trackside.wire import segment

Attach = Callable[..., Session]


def _loss(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(5, 4)).square().mean()


def _received(shm_dir: Path) -> dict[str, Received]:
    return {path.name[:1]: read_segment(path, consume=True) for path in segment.scan(shm_dir)}


def _norm(model: nn.Module) -> float:
    gradients = [parameter.grad.flatten().double() for parameter in model.parameters()]
    return torch.cat(gradients).norm().item()


@pytest.mark.parametrize("every", [1, 3])
def test_both_are_clipped_before_either_steps(
    quiet_attach: Attach, shm_dir: Path, every: int
) -> None:
    """As the generator and the discriminator of a GAN may be."""
    (first, of_first), (second, of_second) = make_regression(), make_regression()
    quiet_attach(first, of_first, every=every, run="a")
    quiet_attach(second, of_second, every=every, run="b")
    true: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}

    for _ in range(3):
        of_first.zero_grad()
        of_second.zero_grad()
        losses = {"a": _loss(first), "b": 50 * _loss(second)}
        for loss in losses.values():
            loss.backward()
        for name, model in (("a", first), ("b", second)):
            true[name].append((losses[name].item(), _norm(model)))
        nn.utils.clip_grad_norm_(first.parameters(), 0.01)
        nn.utils.clip_grad_norm_(second.parameters(), 1e9)
        of_first.step()
        of_second.step()

    for name, received in _received(shm_dir).items():
        assert [step.step for step in received.steps] == list(range(every, 4, every))
        for step in received.steps:
            loss, norm = true[name][step.step - 1]
            assert (step.loss, step.norm_before_clip) == pytest.approx((loss, norm), rel=1e-5)
            assert (step.max_norm, step.clipped) == ((0.01, True) if name == "a" else (1e9, False))
            assert step.clip_rate == (1.0 if name == "a" else 0.0)
            assert step.micro_batches == 1


def test_a_backward_of_another_model_leaves_a_norm_as_it_is(
    quiet_attach: Attach, shm_dir: Path
) -> None:
    (model, optimizer), (other, _) = make_regression(), make_regression()
    quiet_attach(model, optimizer, every=2)
    norms = []

    for _ in range(2):
        optimizer.zero_grad()
        _loss(model).backward()
        norms.append(_norm(model))
        nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
        _loss(other).backward()
        optimizer.step()

    ((step,),) = (received.steps for received in _received(shm_dir).values())
    assert step.norm_before_clip == pytest.approx(norms[1], rel=1e-5)
    assert (step.clip_rate, step.norm_peak) == (1.0, pytest.approx(max(norms), rel=1e-5))


def test_parts_of_one_module_with_optimizers_of_their_own_are_told_apart(
    quiet_attach: Attach, shm_dir: Path
) -> None:
    both = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in both]
    quiet_attach(both, optimizers[0], every=2)

    for _ in range(2):
        both.zero_grad()
        losses = [_loss(part) for part in both]
        for loss in losses:
            loss.backward()
        norm = _norm(both[0])
        nn.utils.clip_grad_norm_(both[0].parameters(), 0.5)
        nn.utils.clip_grad_norm_(both[1].parameters(), 0.25)
        optimizers[0].step()

    ((step,),) = (received.steps for received in _received(shm_dir).values())
    assert step.loss == pytest.approx(losses[0].item())
    assert (step.norm_before_clip, step.max_norm) == (pytest.approx(norm, rel=1e-5), 0.5)


def test_parameters_that_come_later_are_one_s_own(quiet_attach: Attach, shm_dir: Path) -> None:
    """Clipped before the optimizer has them, and after."""
    model, optimizer = make_regression()
    late = nn.Linear(4, 2)
    quiet_attach(model, optimizer, every=1)

    for is_in in (False, True):
        if is_in:
            model.append(nn.Identity())
            optimizer.add_param_group({"params": late.parameters()})
        optimizer.zero_grad()
        (_loss(model) + _loss(late)).backward()
        norm = _norm(late)
        nn.utils.clip_grad_norm_(late.parameters(), 0.5)
        optimizer.step()

    ((before, after),) = (received.steps for received in _received(shm_dir).values())
    assert before.max_norm is None
    assert (after.norm_before_clip, after.max_norm) == (pytest.approx(norm, rel=1e-5), 0.5)


@pytest.mark.parametrize("every", [1, 2])
def test_the_last_loss_is_one_s_own(quiet_attach: Attach, shm_dir: Path, every: int) -> None:
    (model, optimizer), (other, other_optimizer) = make_regression(), make_regression()
    session = quiet_attach(model, optimizer, every=every)

    for _ in range(2):
        loss = _loss(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        (100 * _loss(other)).backward()
        other_optimizer.step()
    session.close()

    (received,) = _received(shm_dir).values()
    assert received.close.loss == pytest.approx(loss.item())


def test_what_another_thread_trains_is_none_of_ours(quiet_attach: Attach, shm_dir: Path) -> None:
    """Its backward runs in the middle of ours."""
    (model, optimizer), (other, _) = make_regression(), make_regression()
    quiet_attach(model, optimizer, every=2)

    for _ in range(2):
        optimizer.zero_grad()
        loss, its = _loss(model), 100 * _loss(other)
        loss.register_hook(lambda _, its=its: _run_in_thread(its.backward))
        loss.backward()
        optimizer.step()

    ((step,),) = (received.steps for received in _received(shm_dir).values())
    assert (step.loss, step.micro_batches) == (pytest.approx(loss.item()), 1)


def test_a_backward_in_another_thread_is_told_while_one_runs(
    quiet_attach: Attach, shm_dir: Path
) -> None:
    """Both train: the one whose backward began later has its loss all the same."""
    (model, optimizer), (other, _) = make_regression(), make_regression()
    quiet_attach(model, optimizer, every=1)
    losses = []

    @torch.enable_grad()
    def train() -> None:
        losses.append(_loss(model))
        losses[-1].backward()
        optimizer.step()

    its = _loss(other)
    its.register_hook(lambda _: _run_in_thread(train))
    its.backward()

    ((step,),) = (received.steps for received in _received(shm_dir).values())
    assert step.loss == pytest.approx(losses[0].item())


def _run_in_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
