"""What the user logs: losses, values, texts, steps and epochs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from regression import make_regression, train_step
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate

import trackside
from trackside.session import Session

Attach = Callable[..., Session]
Receive = Callable[[], Any]


@pytest.mark.parametrize("is_after", [False, True])
def test_a_logged_loss_wins_before_and_after_the_step(
    quiet_attach: Attach, receive: Receive, *, is_after: bool
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=2)

    for index in range(1, 7):
        loss = model(torch.randn(5, 4)).square().mean()
        loss.backward()
        if not is_after:
            session.log(loss=10.0 * index)
        optimizer.step()
        if is_after:
            session.log(loss=10.0 * index)
    session.close()

    received = receive()
    assert [step.loss for step in received.steps] == [20.0, 40.0, 60.0]
    assert received.close.loss == 60.0


@pytest.mark.parametrize("is_logged", [True, False])
def test_the_first_sampled_step_waits_for_a_loss_of_which_backward_saw_shares(
    quiet_attach: Attach, receive: Receive, *, is_logged: bool
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(2):
            loss = model(torch.randn(5, 4)).square().mean()
            (loss / 2).backward()
            total += loss.item() / 2
        optimizer.step()
        if is_logged:
            session.log(loss=total)
        losses.append(total if is_logged else total / 2)
    session.close()

    assert [step.loss for step in receive().steps] == pytest.approx(losses, rel=1e-6)


def test_values_logged_with_the_loss_of_a_step_travel_with_it(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=2)

    for step in range(1, 5):
        train_step(model, optimizer)
        session.log(loss=1.0, accuracy=step)

    logged = [[entry.value for entry in step.scalars] for step in receive().steps]
    assert logged == [[1.0, 2.0], [3.0, 4.0]]


def test_a_loss_logged_before_backward_is_that_of_its_step(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=2)

    losses = []
    for _ in range(4):
        loss = model(torch.randn(5, 4)).square().mean()
        session.log(loss=loss)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()

    assert [step.loss for step in receive().steps] == [losses[1], losses[3]]


def test_logged_values_travel_with_the_next_record(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=2)
    moving = torch.tensor(1.5)

    train_step(model, optimizer)
    session.log(accuracy=moving, count=np.int64(3))
    session.text("note", "hello")
    moving.add_(1)
    train_step(model, optimizer)
    session.log(late=True)
    session.close()

    received = receive()
    (step,) = received.steps
    found = [(entry.step, entry.name, entry.value) for entry in step.scalars]
    assert found == [(1, "accuracy", 1.5), (1, "count", 3.0)]
    assert [(text.tag, text.text) for text in step.texts] == [("note", "hello")]
    assert [(entry.name, entry.value) for entry in received.close.scalars] == [("late", 1.0)]


def test_a_value_that_is_no_number_is_refused_once(
    quiet_attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer)

    for _ in range(3):
        session.log(names=["a"], vector=torch.zeros(2))

    assert len(caplog.records) == 2
    assert "names" in caplog.text


def test_too_many_logged_values_lose_the_oldest_and_are_counted(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1, ring_bytes=1 << 15)

    for index in range(110):
        session.log(x=float(index))
    train_step(model, optimizer)

    # An eighth of 32 KiB, and 41 bytes for a value called x: the last 99.
    (step,) = receive().steps
    assert [entry.value for entry in step.scalars] == [float(index) for index in range(11, 110)]
    assert step.dropped == {"log_full": 11}
    assert "the oldest values are dropped" in caplog.text


def test_what_no_record_can_hold_is_left_out_and_the_rest_goes_on(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    session.log_at(-1, {"lost": 1.0})
    session.log_at(2**63, {"lost": 1.0})
    session.log_at(np.int64(7), {"half \ud800": 2.0})
    session.text("tag \ud800", "text \udc00")
    train_step(model, optimizer)

    (step,) = receive().steps
    assert [(entry.step, entry.name) for entry in step.scalars] == [(7, "half ?")]
    assert [(entry.tag, entry.text) for entry in step.texts] == [("tag ?", "text ?")]
    assert caplog.text.count("log(step=...) takes steps from 0 to 9223372036854775807") == 1


@pytest.mark.parametrize("step", [float("nan"), "ten", -1, None, torch.zeros(2)], ids=str)
def test_a_step_that_is_none_is_said_once_and_costs_its_values_only(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture, step: Any
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    for _ in range(5):
        session.log_at(step, {"lost": 1.0})
        if step is not None:
            session.log(step=step, lost=1.0)
    session.log(kept=2.0)
    train_step(model, optimizer)

    (sampled,) = receive().steps
    assert [(entry.step, entry.name) for entry in sampled.scalars] == [(0, "kept")]
    assert caplog.text.count("log(step=...) takes steps from 0 to") == 1
    assert "detached" not in caplog.text


def test_names_of_any_kind_become_text(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    session.log_at(1, {0: 0.5, ("a", 1): 1.5})  # type: ignore[dict-item]  # what users do
    train_step(model, optimizer)

    (step,) = receive().steps
    assert [(entry.name, entry.value) for entry in step.scalars] == [("0", 0.5), ("('a', 1)", 1.5)]


@pytest.mark.usefixtures("process_group")
def test_a_number_of_all_ranks_is_logged_and_a_part_of_one_is_not(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    """As `clip_grad_norm_` returns it where a model is sharded."""
    mesh = init_device_mesh("cpu", (1,))
    whole = DTensor.from_local(torch.tensor(3.0), mesh, [Replicate()])
    part = DTensor.from_local(torch.tensor(3.0), mesh, [Partial()])
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    session.log(whole=whole, part=part, meta=torch.empty((), device="meta"), plain=1.0)
    train_step(model, optimizer)

    (step,) = receive().steps
    assert {entry.name: entry.value for entry in step.scalars} == {"whole": 3.0, "plain": 1.0}
    assert "log(part=...) takes single numbers" in caplog.text


def test_a_resumed_run_counts_on_from_the_logged_step(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=10)

    session.log(step=99)
    train_step(model, optimizer)
    for index in range(101, 111):
        train_step(model, optimizer)
        session.log(step=index - 1)  # counted from 0, after the step

    assert [step.step for step in receive().steps] == [100, 110]


def test_the_first_step_of_a_requested_epoch_is_sampled(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1000, epochs=(0, 2))

    for epoch in range(4):
        session.log(epoch=epoch)
        for _ in range(3):
            train_step(model, optimizer)

    found = [(step.step, step.epoch, step.epoch_requested) for step in receive().steps]
    assert found == [(1, 0, True), (7, 2, True)]


def test_facts_of_the_data_set_become_scalars_and_a_table(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)

    trackside.log_dataset(samples=np.int64(50), source="wiki")
    train_step(model, optimizer)

    (step,) = receive().steps
    assert [(entry.name, entry.value) for entry in step.scalars] == [("Dataset/samples", 50.0)]
    ((tag, text),) = [(entry.tag, entry.text) for entry in step.texts]
    assert tag == "Dataset/Summary"
    assert text.splitlines()[2:] == ["| samples | 50 |", "| source | wiki |"]


def test_texts_that_cannot_be_measured_cost_their_measures_only(
    quiet_attach: Attach, receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    session.dataset(samples=50, texts=[{"text": "a"}])  # type: ignore[list-item]  # a mistake
    session.dataset(texts=3)
    session.dataset(texts=["ab", "c"])
    train_step(model, optimizer)

    assert "texts[0] is a dict" in caplog.text
    found = [(entry.name, entry.value) for entry in receive().steps[0].scalars]
    assert found[:2] == [("Dataset/samples", 50.0), ("Dataset/texts", 3.0)]
    assert dict(found)["Dataset/Characters"] == 3.0


def test_facts_without_a_session_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    trackside.log_dataset(samples=1)

    assert "call attach() first" in caplog.text


def test_tokens_travel_with_the_next_sampled_step_only(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=2)

    due = []
    for index in range(1, 7):
        due.append(session.is_due)
        if index in {1, 4}:
            session.tokens(["ignored"])
            session.tokens([f"t{index}", 7, torch.tensor(1.0), "x" * 100])
        train_step(model, optimizer)

    assert [step.tokens for step in receive().steps] == [
        ("t1", "7", "?", "x" * 32),
        ("t4", "7", "?", "x" * 32),
        (),
    ]
    assert due == [False, True] * 3


def test_too_many_tokens_are_left_out(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    for count in (16_384, 16_385):
        session.tokens("a" for _ in range(count))
        train_step(model, optimizer)

    assert [len(step.tokens) for step in receive().steps] == [16_384, 0]


def test_what_is_no_sequence_costs_the_training_nothing(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    session.tokens(5)
    train_step(model, optimizer)
    train_step(model, optimizer)

    assert receive().steps[-1].step == 2
