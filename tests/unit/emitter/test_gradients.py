"""The parts that read gradients, one by one."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from trackside.capture.gradients import MAX_SAMPLED, GradientTap, total_norm, trainable
from trackside.capture.local_norm import LocalNorm
from trackside.guard import Guard
from trackside.session import Session

Attach = Callable[..., Session]
Receive = Callable[[], Any]


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5))
def test_counts_tell_apart_what_was_sampled(sizes: list[int]) -> None:
    model = nn.ParameterList(nn.Parameter(torch.arange(float(size))) for size in sizes)
    for parameter in model:
        parameter.grad = parameter.detach() + 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    tap = GradientTap(model, sample_bytes=1 << 20)

    tap.before_step(optimizer, None)
    captured = tap.after_step()

    assert captured is not None
    counts = captured.tensors["gradients/sample_count"].tolist()
    parts = captured.tensors["gradients/sample"].split(counts)
    befores = captured.tensors["gradients/weight_before"].split(counts)
    for size, part, before in zip(sizes, parts, befores, strict=True):
        assert 0 < len(part) <= min(size, MAX_SAMPLED)
        assert torch.equal(part, before + 0.5)
        steps = before.diff().unique()
        assert len(steps) <= 1  # evenly spaced
        assert before[0] == 0


def test_a_transposed_parameter_is_sampled_row_by_row() -> None:
    model = nn.Linear(3, 2, bias=False)
    model.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    model.weight.grad = torch.arange(6.0).reshape(3, 2)
    tap = GradientTap(model, sample_bytes=1 << 20)

    tap.before_step(torch.optim.SGD(model.parameters(), lr=0.0), None)
    captured = tap.after_step()

    assert captured is not None
    assert captured.tensors["gradients/weight_before"].tolist() == [0, 3, 1, 4, 2, 5]
    assert captured.tensors["gradients/sample"].tolist() == [0, 1, 2, 3, 4, 5]


def test_without_gradients_there_is_nothing() -> None:
    model = nn.Linear(2, 2)
    tap = GradientTap(model, sample_bytes=1 << 20)

    tap.before_step(torch.optim.SGD(model.parameters(), lr=0.1), None)

    assert tap.after_step() is None


def test_gradients_that_are_not_read_are_noted_once_for_each_cause() -> None:
    model = nn.ModuleList(nn.Embedding(3, 2, sparse=True) for _ in range(3))
    model.append(nn.Linear(2, 2, dtype=torch.complex64))
    loss = sum(table(torch.tensor([1])).sum() for table in model[:3])
    (loss + model[3](torch.ones(2, dtype=torch.complex64)).abs().sum()).backward()
    tap = GradientTap(model, sample_bytes=1 << 20)

    for _ in range(2):
        tap.before_step(torch.optim.SGD(model.parameters(), lr=0.1), None)

    assert tap.notes == (
        "0.weight has a sparse gradient, which is not read; 2 others too",
        "3.weight has a complex gradient, which is not read; 1 others too",
    )


def test_what_other_optimizers_update_is_noted_once() -> None:
    """As of Muon, which takes matrices only, beside an AdamW for the rest."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[1].bias.requires_grad_(requires_grad=False)
    tap = GradientTap(model, sample_bytes=1 << 20)
    model(torch.ones(2)).sum().backward()
    matrices = [model[0].weight, model[1].weight]

    for _ in range(2):
        tap.before_step(torch.optim.SGD(matrices, lr=0.1), None)
    (note,) = tap.notes

    assert note.startswith("1 of the model's 3 parameters that learn are not updated by")


def test_parameters_of_another_model_are_named_by_their_place() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 1, bias=False)
    other(torch.ones(2)).sum().backward()
    tap = GradientTap(model, sample_bytes=1 << 20)

    tap.before_step(torch.optim.SGD(other.parameters(), lr=0.1), None)
    captured = tap.after_step()

    assert captured is not None
    assert captured.meta.names == ("parameter 0",)


def test_a_local_norm_that_lacks_a_gradient_is_none() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1))
    norm = LocalNorm(Guard(lambda: None))
    for ids in (torch.tensor([1, 2]), torch.tensor([3])):
        norm.arm(trainable(torch.optim.SGD(model.parameters(), lr=0.1)))

        model(ids).sum().backward()

        assert norm.take() is None


def test_the_local_norm_is_that_of_the_sum_over_micro_batches() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    norm = LocalNorm(Guard(lambda: None))
    norm.arm(trainable(torch.optim.SGD(model.parameters(), lr=0.1)))

    for _ in range(3):
        model(torch.randn(5, 4)).square().mean().backward()
    found = norm.take()

    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
    assert found is not None
    assert float(found.norm) == pytest.approx(math.sqrt(squares), rel=1e-6)
    assert found.drift is not None
    assert float(found.drift) == 0.0
    assert norm.take() is None
    assert not model.weight._backward_hooks


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("placement", [Replicate(), Shard(0), Partial()])
def test_the_local_norm_is_unknown_where_a_rank_holds_a_part(placement: Placement) -> None:
    mesh = init_device_mesh("cpu", (1,))
    weight = DTensor.from_local(torch.ones(4), mesh, [placement]).requires_grad_()
    bias = torch.zeros(3, requires_grad=True)
    norm = LocalNorm(Guard(lambda: None))
    norm.arm([weight, bias])

    weight.backward(DTensor.from_local(torch.full((4,), 2.0), mesh, [placement]))
    bias.backward(torch.tensor([3.0, 0.0, 0.0]))
    found = norm.take()

    if placement.is_replicate():
        assert found is not None
        assert type(found.norm) is torch.Tensor
        assert float(found.norm) == 5.0
    else:
        assert found is None


@pytest.mark.parametrize("averages_each", [False, True])
def test_the_local_norm_is_unknown_where_ranks_average_every_micro_batch(
    quiet_attach: Attach,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
    *,
    averages_each: bool,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = quiet_attach(model, optimizer, every=1, attention=False)

    squares = 0.0
    for is_last in (False, True):
        model(torch.randn(5, 4)).square().mean().backward()
        if is_last:
            squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
        if averages_each or is_last:
            for parameter in model.parameters():  # as if the other rank had another gradient
                parameter.grad.mul_(0.5).add_(0.1)
    optimizer.step()
    session.close()

    (step,) = receive().steps
    expected = None if averages_each else pytest.approx(math.sqrt(squares), rel=1e-6)
    assert step.local_gradient_norm == expected


def test_a_hook_of_a_leaf_that_fails_detaches(
    quiet_attach: Attach,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(LocalNorm, "_note", _raise)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quiet_attach(model, optimizer, every=2, attention=False)

    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2)).sum().backward()
        optimizer.step()

    assert caplog.text.count("training goes on") == 1
    assert "detached after 3 errors" in caplog.text
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert receive().drops == {"error": 3}


def _raise(*_: object) -> None:
    raise RuntimeError("broken on purpose")


def test_settings_come_from_the_environment(
    quiet_attach: Attach, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKSIDE_EVERY", "2")
    monkeypatch.setenv("TRACKSIDE_GRADIENTS", "0")
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quiet_attach(model, optimizer)

    for _ in range(4):
        model(torch.ones(2)).sum().backward()
        optimizer.step()

    received = receive()
    assert [step.step for step in received.steps] == [2, 4]
    assert received.steps[0].gradients is None
    assert received.steps[0].norm_after_clip is None
    assert received.steps[0].clipped is None


def test_many_parameters_share_the_budget_of_a_step() -> None:
    model = nn.ParameterList(nn.Parameter(torch.arange(1000.0)) for _ in range(10))
    for parameter in model:
        parameter.grad = parameter.detach().clone()
    tap = GradientTap(model, sample_bytes=10 * 4 * 4 * 100)

    tap.before_step(torch.optim.SGD(model.parameters(), lr=0.0), None)
    captured = tap.after_step()

    assert captured is not None
    assert captured.tensors["gradients/sample_count"].tolist() == [100] * 10
    assert captured.tensors["gradients/sample"][:100].tolist() == [10.0 * i for i in range(100)]
    assert captured.shrunk == ("100 of 1024 elements are sampled of each parameter",)


def test_norms_of_several_devices_meet_where_nothing_waits_for_them() -> None:
    norms = [torch.tensor(3.0), torch.tensor(4.0, device="meta")]  # stands for an accelerator

    assert total_norm(norms).device.type == "meta"
    assert total_norm(norms[:1]).device.type == "cpu"
