"""Models that are thrown away without a word, as in a search for settings in one process."""

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from received import read_segment
from regression import make_regression, train_step
from torch import nn

from trackside.session import Session
from trackside.wire import segment

Attach = Callable[..., Session]


@pytest.mark.parametrize("every", [1, 2, 100])
@pytest.mark.parametrize("is_given", [True, False])
def test_a_session_keeps_no_model_alive(
    quiet_attach: Attach, shm_dir: Path, every: int, *, is_given: bool
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer if is_given else None, every=every, run="first")
    for _ in range(3):
        train_step(model, optimizer, clip=1.0)
    gone = [weakref.ref(model), weakref.ref(optimizer)]

    del model, optimizer
    gc.collect()

    assert [reference() for reference in gone] == [None, None]
    assert segment.is_writer_alive(*segment.scan(shm_dir))
    session.log(accuracy=0.5)  # known only now
    other, other_optimizer = make_regression()
    quiet_attach(other, other_optimizer, run="second")
    first, second = segment.scan(shm_dir)
    assert (segment.is_writer_alive(first), segment.is_writer_alive(second)) == (False, True)
    close = read_segment(first).close
    assert (close.reason, close.steps) == ("model or optimizer is gone", 3)
    assert [(entry.name, entry.value) for entry in close.scalars] == [("accuracy", 0.5)]


@pytest.mark.parametrize("every", [1, 100])
def test_a_session_without_its_model_stays_out_of_the_way(
    quiet_attach: Attach, caplog: pytest.LogCaptureFixture, tmp_path: Path, every: int
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=every, attention=False)
    train_step(model, optimizer, clip=1.0)
    shallow = copy.copy(model)
    del model, optimizer
    gc.collect()

    other, other_optimizer = make_regression()
    for _ in range(300):
        train_step(other, other_optimizer, clip=1.0)
    torch.save(other, tmp_path / "model.pt")
    copy.deepcopy(shallow)(torch.randn(5, 4)).sum().backward()
    shallow(torch.randn(5, 4)).sum().backward()

    assert caplog.records == []


@pytest.mark.parametrize("is_given", [True, False])
def test_an_optimizer_that_takes_the_place_of_another_is_watched_once_attached(
    quiet_attach: Attach, shm_dir: Path, *, is_given: bool
) -> None:
    model, optimizer = make_regression()
    old = quiet_attach(model, optimizer if is_given else None, every=1, run="first")
    train_step(model, optimizer)

    optimizer = torch.optim.Adam(model.parameters())
    gc.collect()
    new = quiet_attach(model, optimizer, every=1, run="first")
    train_step(model, optimizer)

    found = {path.name.partition(".")[0]: read_segment(path) for path in segment.scan(shm_dir)}
    first, second = found[old.run], found[new.run]
    assert first.close.reason == "model or optimizer is gone"
    assert [step.step for step in first.steps] == [1]
    assert [step.learning_rate for step in second.steps] == [1e-3]


def test_what_comes_after_does_not_write_over_it(quiet_attach: Attach, tmp_path: Path) -> None:
    directories = set()
    for _ in range(3):
        model, optimizer = make_regression()
        session = quiet_attach(model, optimizer, run="search")
        directories.add(session.save_dir)
        del model, optimizer
        gc.collect()

    assert len(directories) == 3
    assert tmp_path / "out" in directories


def test_a_model_that_only_the_optimizer_is_left_of_is_watched(
    quiet_attach: Attach, shm_dir: Path
) -> None:
    """Parts trained together, put into a module for `attach` alone."""
    parts = [nn.Linear(4, 4), nn.Linear(4, 2)]
    optimizer = torch.optim.SGD([p for part in parts for p in part.parameters()], lr=0.1)
    quiet_attach(nn.ModuleList(parts), optimizer, every=2)
    gc.collect()

    for _ in range(4):
        optimizer.zero_grad()
        parts[1](parts[0](torch.randn(3, 4))).square().mean().backward()
        optimizer.step()

    (path,) = segment.scan(shm_dir)
    steps = read_segment(path).steps
    assert [step.step for step in steps] == [2, 4]
    assert steps[0].gradients.names == ("0.weight", "0.bias", "1.weight", "1.bias")


def test_a_module_made_for_attach_is_kept_until_an_optimizer_is_found(
    quiet_attach: Attach, shm_dir: Path
) -> None:
    model, optimizer = make_regression()
    quiet_attach(nn.ModuleList([model]), every=1)
    gc.collect()

    train_step(model, optimizer)
    gc.collect()
    train_step(model, optimizer)

    (path,) = segment.scan(shm_dir)
    assert [step.step for step in read_segment(path).steps] == [1, 2]


def test_an_optimizer_that_takes_no_hook_for_its_state_is_watched(
    quiet_attach: Attach, shm_dir: Path
) -> None:
    model, optimizer = make_regression()
    del optimizer._optimizer_load_state_dict_post_hooks  # as one whose __init__ is its own

    quiet_attach(nn.ModuleList([model]), every=1)
    gc.collect()
    for _ in range(2):
        train_step(model, optimizer)

    (path,) = segment.scan(shm_dir)
    assert [step.step for step in read_segment(path).steps] == [1, 2]


def test_a_watched_optimizer_loads_its_state(quiet_attach: Attach) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    train_step(model, optimizer)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.25

    optimizer.load_state_dict(state)

    assert optimizer.param_groups[0]["lr"] == 0.25
