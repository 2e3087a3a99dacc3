"""What a plain training loop publishes, checked against formulas by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regression import make_regression, train_step
from torch import nn

from trackside.session import Session

Attach = Callable[..., Session]
Receive = Callable[[], Any]


def test_due_steps_and_no_others_are_published(
    quiet_attach: Attach, receive: Receive, tmp_path: Path
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=3, run="r", config={"lr": 0.1})

    for _ in range(7):
        train_step(model, optimizer)
    session.close()

    received = receive()
    assert [step.step for step in received.steps] == [3, 6]
    assert (received.close.steps, received.close.sampled, received.close.published) == (7, 2, 2)
    assert received.hello.run == "r"
    assert received.hello.config == {"lr": 0.1}
    assert received.hello.save_dir == str(tmp_path / "out")


def test_loss_and_learning_rate_are_those_of_the_step(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    quiet_attach(model, optimizer, every=2)

    losses = []
    for _ in range(4):
        losses.append(train_step(model, optimizer).item())
        schedule.step()

    second, fourth = receive().steps
    assert (second.loss, fourth.loss) == (losses[1], losses[3])
    assert second.learning_rate == pytest.approx(0.1 * 0.5)
    assert fourth.learning_rate == pytest.approx(0.1 * 0.5**3)
    assert second.micro_batches == 1
    assert second.epoch is None
    assert second.amp_scale is None
    assert fourth.step_seconds > 0
    assert fourth.local_seconds > 0


def test_time_of_a_rank_alone_is_not_known_for_a_step_sampled_from_the_start(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)

    for _ in range(2):
        train_step(model, optimizer)

    first, second = receive().steps
    assert first.local_seconds is None
    assert second.local_seconds > 0


def test_norms_before_and_after_clipping_match_numpy(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    loss = model(torch.randn(5, 4)).square().mean()
    loss.backward()
    raw = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]).astype(np.float64)
    limit = 0.01

    returned = nn.utils.clip_grad_norm_(model.parameters(), limit)
    clipped = [p.grad.numpy().astype(np.float64).copy() for p in model.parameters()]
    optimizer.step()

    (step,) = receive().steps
    assert step.norm_before_clip == returned.item()
    assert step.norm_before_clip == pytest.approx(np.linalg.norm(raw), rel=1e-6)
    whole = np.concatenate([gradient.ravel() for gradient in clipped])
    assert step.norm_after_clip == pytest.approx(np.linalg.norm(whole), rel=1e-6)
    assert (step.max_norm, step.clipped, step.clip_rate) == (limit, True, 1.0)
    assert step.local_gradient_norm == step.norm_before_clip


def test_gradient_arrays_match_the_tensors(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    model(torch.randn(5, 4)).square().mean().backward()
    gradients = [p.grad.numpy().copy() for p in model.parameters()]
    before = [p.detach().numpy().copy() for p in model.parameters()]
    optimizer.step()
    after = [p.detach().numpy().copy() for p in model.parameters()]

    (sample,) = receive().samples

    found = sample.gradients
    assert found.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert found.num_elements == (12, 3, 6, 2)
    np.testing.assert_allclose(found.norm, [np.linalg.norm(g) for g in gradients], rtol=1e-6)
    np.testing.assert_array_equal(found.abs_max, [np.abs(g).max() for g in gradients])
    np.testing.assert_allclose(found.weight_norm, [np.linalg.norm(w) for w in before], rtol=1e-6)
    for index in range(4):
        np.testing.assert_array_equal(found.sample[index], gradients[index].ravel())
        np.testing.assert_array_equal(found.weight_before[index], before[index].ravel())
        np.testing.assert_array_equal(found.weight_after[index], after[index].ravel())


def test_large_tensors_are_sampled_with_an_even_stride(
    quiet_attach: Attach, receive: Receive
) -> None:
    model = nn.Linear(100, 50, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    quiet_attach(model, optimizer, every=1)
    model(torch.randn(2, 100)).sum().backward()
    gradient = model.weight.grad.numpy().ravel().copy()
    optimizer.step()

    (sample,) = receive().samples

    stride = 7  # the first from 5000 / 1024 on that shares no factor with a row of 100
    np.testing.assert_array_equal(sample.gradients.sample[0], gradient[::stride])


def test_a_step_without_clipping_has_one_norm(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)

    train_step(model, optimizer)

    (step,) = receive().steps
    assert step.norm_before_clip == step.norm_after_clip
    assert (step.max_norm, step.clipped, step.clip_rate) == (None, False, 0.0)


def test_the_clip_rate_covers_the_steps_since_the_last_sample(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=4)

    norms = []
    for index in range(8):
        model(torch.randn(5, 4)).square().mean().backward()
        limit = 1e-6 if index in {1, 4, 5, 6} else 1e6
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), limit).item())
        optimizer.step()
        optimizer.zero_grad()

    steps = receive().steps
    assert [step.clip_rate for step in steps] == [0.25, 0.75]
    assert [step.norm_peak for step in steps] == [max(norms[:4]), max(norms[4:])]


def test_accumulation_averages_the_loss_and_counts_micro_batches(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=2)

    losses = []
    for index in range(6):
        loss = model(torch.randn(5, 4)).square().mean()
        loss.backward()
        losses.append(loss.item())
        if index % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    session.close()

    (step,) = receive().steps
    assert step.micro_batches == 3
    assert step.loss == pytest.approx(np.mean(np.float64(losses[3:])), rel=1e-6)


def test_sparse_gradients_are_left_out_with_a_note_and_no_norm_pretends_to_hold_them(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quiet_attach(model, optimizer, every=1)

    model(torch.tensor([1, 2])).sum().backward()
    optimizer.step()

    (sample,) = receive().samples
    assert sample.gradients.names == ("1.weight", "1.bias")
    assert sample.step.norm_after_clip is None
    assert sample.step.norm_before_clip is None
    assert sample.step.local_gradient_norm is None
    assert "0.weight has a sparse gradient" in caplog.text


def test_bfloat16_and_frozen_and_empty_parameters(quiet_attach: Attach, receive: Receive) -> None:
    model = nn.Linear(64, 64).to(torch.bfloat16)
    model.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
    model.empty = nn.Parameter(torch.zeros(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quiet_attach(model, optimizer, every=1)

    (model(torch.randn(2, 64, dtype=torch.bfloat16)).sum() + model.empty.sum()).backward()
    expected = model.weight.grad.double().norm().item()
    largest = model.weight.grad.abs().max().item()
    optimizer.step()

    (sample,) = receive().samples
    assert sample.gradients.names == ("weight", "bias")
    assert sample.gradients.norm[0] == pytest.approx(expected, rel=1e-5)
    assert sample.gradients.abs_max[0] == largest


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_shows(quiet_attach: Attach, receive: Receive, bad: float) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quiet_attach(model, optimizer, every=1)

    model(torch.ones(3)).sum().backward()
    model.weight.grad[0, 1] = bad
    optimizer.step()

    (sample,) = receive().samples
    assert np.isfinite(sample.gradients.abs_max).tolist() == [False, True]
    assert not math.isfinite(sample.step.norm_after_clip)


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_grad_scaler_is_divided_out(
    quiet_attach: Attach, receive: Receive, *, is_fused: bool
) -> None:
    model, _ = make_regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=is_fused)
    quiet_attach(model, optimizer, every=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    loss = model(torch.ones(5, 4)).square().mean()
    expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

    (step,) = receive().steps
    assert step.amp_scale == 1024.0
    assert step.loss == pytest.approx(loss.item(), rel=1e-6)
    total = np.linalg.norm(np.concatenate([g.numpy().ravel() for g in expected]))
    assert step.norm_after_clip == pytest.approx(float(total), rel=1e-5)


def test_two_models_of_one_process_are_two_runs_with_outputs_of_their_own(
    quiet_attach: Attach, tmp_path: Path
) -> None:
    first = quiet_attach(*make_regression(), run="pair")
    second = quiet_attach(*make_regression(), run="pair")

    assert (first.run, second.run) == ("pair", "pair-2")
    assert first.save_dir == tmp_path / "out"
    assert second.save_dir == tmp_path / "out" / "pair-2"
