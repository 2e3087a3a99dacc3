"""Attaching, detaching and what a session says about itself."""

import copy
import inspect
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from regression import make_regression, train_step
from torch import nn

from trackside.checks import PICTURES
from trackside.errors import ConfigError
from trackside.session import Session, attach
from trackside.wire import segment

Attach = Callable[..., Session]
Receive = Callable[[], Any]


def test_help_lists_every_word_of_visualize() -> None:
    shown = inspect.getdoc(attach) or ""

    assert [word for word in PICTURES if f'"{word}"' not in shown] == []


def test_the_signature_shows_every_keyword_with_its_default() -> None:
    parameters = inspect.signature(attach).parameters

    assert [*parameters][:2] == ["model", "optimizer"]
    shown = {
        name: each.default for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    assert shown == {
        "every": 100,
        "epochs": (),
        "layers": (0, -1),
        "heads": "all",
        "sample": 0,
        "max_queries": 512,
        "attention": True,
        "gradients": True,
        "save_dir": None,
        "checkpoints": None,
        "run": None,
        "ring_bytes": 67_108_864,
        "step_bytes": None,
        "visualize": ("heatmap", "statistics"),
        "save_raw": False,
        "config": None,
        "autostart": True,
    }
    described = inspect.getdoc(attach) or ""
    assert [name for name in shown if f"\n    {name}: " not in described] == []


def test_a_closure_is_seen_after_its_backward(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    losses = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(5, 4)).square().mean()
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)

    (sample,) = receive().samples
    assert sample.step.loss == losses[0]
    assert sample.step.norm_after_clip > 0
    assert sample.gradients.names == ("0.weight", "0.bias", "1.weight", "1.bias")


def test_without_an_optimizer_the_first_that_updates_the_model_is_taken(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    other, other_optimizer = make_regression()
    quiet_attach(model, every=2)

    for _ in range(4):
        train_step(other, other_optimizer)
        train_step(model, optimizer)

    assert [step.step for step in receive().steps] == [2, 4]


def test_attaching_twice_goes_on_and_other_settings_attach_anew(
    quiet_attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = make_regression()

    first = quiet_attach(model, optimizer, every=2)
    assert quiet_attach(model, optimizer, every=2) is first
    assert "attached already" in caplog.text
    second = quiet_attach(model, optimizer, every=1)

    assert second is not first
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert len(model._forward_hooks) == 1


def test_close_puts_everything_back(quiet_attach: Attach) -> None:
    backward, clip = torch.autograd.backward, nn.utils.clip_grad._clip_grads_with_norm_
    model, optimizer = make_regression()

    session = quiet_attach(model, optimizer)
    assert torch.autograd.backward is not backward
    session.close()
    session.close()

    assert torch.autograd.backward is backward
    assert nn.utils.clip_grad._clip_grads_with_norm_ is clip
    assert nn.utils.clip_grads_with_norm_ is clip
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_close_says_in_one_line_what_became_of_it(
    quiet_attach: Attach, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, logger="trackside")
    model, optimizer = make_regression()

    with quiet_attach(model, optimizer, every=2, attention=False):
        for _ in range(5):
            train_step(model, optimizer)

    (line,) = caplog.records
    assert line.levelno == logging.INFO
    assert "5 steps, 2 sampled, 3 records published, dropped: none" in line.getMessage()
    assert str(tmp_path / "out") in line.getMessage()


def test_a_failed_with_block_says_so(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()

    with pytest.raises(ZeroDivisionError), quiet_attach(model, optimizer):
        raise ZeroDivisionError

    assert receive().close.reason == "failed: ZeroDivisionError"


def test_a_copy_of_an_attached_model_is_free(quiet_attach: Attach, receive: Receive) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)

    twin = copy.deepcopy(model)
    twin(torch.randn(1, 4))
    train_step(model, optimizer)

    assert len(receive().steps) == 1


def test_the_switch_touches_nothing(monkeypatch: pytest.MonkeyPatch, shm_dir: Path) -> None:
    monkeypatch.setenv("TRACKSIDE", "0")
    monkeypatch.setenv("TRACKSIDE_EVERY", "nonsense")
    backward = torch.autograd.backward
    model, optimizer = make_regression()

    with attach(model, optimizer) as session:
        session.log(loss=1.0)
        session.text("a", "b")
        train_step(model, optimizer)

    assert torch.autograd.backward is backward
    assert not model._forward_pre_hooks
    assert list(shm_dir.iterdir()) == []


def test_wrong_arguments_are_refused(shm_dir: Path) -> None:
    model, optimizer = make_regression()

    with pytest.raises(ConfigError, match="did you mean 'every'"):
        attach(model, optimizer, evry=3)  # type: ignore[call-arg] # the point
    with pytest.raises(ConfigError, match="model="):
        attach([model], optimizer)  # type: ignore[arg-type] # the point
    with pytest.raises(ConfigError, match="optimizer="):
        attach(model, [optimizer])  # type: ignore[arg-type] # the point

    assert list(shm_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "keywords", "expected"),
    [
        ({}, {"autostart": True}, 1),
        ({}, {"autostart": False}, 0),
        ({"TRACKSIDE_AUTOSTART": "0"}, {}, 0),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, {"autostart": True}, 0),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, {"autostart": True}, 1),
        ({"TRACKSIDE_SHM_DIR": "/nowhere/at/all"}, {"autostart": True}, 0),
    ],
)
def test_one_rank_of_a_node_starts_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
    shm_dir: Path,
    environ: dict[str, str],
    keywords: dict[str, bool],
    expected: int,
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(
        "trackside.autostart.ensure_daemon", lambda directory, _: started.append(directory)
    )
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    model, optimizer = make_regression()

    attach(model, optimizer, ring_bytes=4096, **keywords).close()

    assert started == [shm_dir] * expected
    for path in segment.scan(shm_dir):
        segment.remove(path)


def test_a_mistyped_variable_is_a_warning_and_training_goes_on(
    quiet_attach: Attach, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKSIDE_EVRY", "5")
    model, optimizer = make_regression()

    session = quiet_attach(model, optimizer)

    (line,) = [record.getMessage() for record in caplog.records if "EVRY" in record.getMessage()]
    assert line.endswith("TRACKSIDE_EVRY is not known; did you mean TRACKSIDE_EVERY?")
    assert session.run is not None


def test_a_model_that_is_built_on_meta_and_filled_later_is_read_by_name(
    quiet_attach: Attach, receive: Receive
) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    quiet_attach(model, every=1)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()

    (sample,) = receive().samples
    assert sample.gradients.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert sample.gradients.weight_norm[0] == pytest.approx(math.sqrt(12 * 0.25))


def test_a_model_that_is_moved_after_attach_is_read_where_it_is(
    quiet_attach: Attach, receive: Receive
) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    quiet_attach(model, optimizer, every=1)
    model.to(torch.float64)

    loss = model(torch.ones(2, 4, dtype=torch.float64)).sum()
    loss.backward()
    optimizer.step()

    (sample,) = receive().samples
    assert sample.step.loss == pytest.approx(loss.item(), rel=1e-7)
    assert sample.gradients.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert sample.gradients.sample[3].tolist() == [2.0]  # of the last bias: once per input


def test_a_default_device_of_the_user_s_does_not_reach_us(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    inputs = torch.ones(5, 4)

    with torch.device("meta"):  # stands for an accelerator: what is made by default is not here
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()

    (sample,) = receive().samples
    assert sample.step.loss == pytest.approx(loss.item())
    assert sample.gradients.names == ("0.weight", "0.bias", "1.weight", "1.bias")


class _Around(torch.optim.Optimizer):
    """A wrapper as there are many: not made by torch's ``__init__``, so that it takes no hooks."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base = base

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # as they do it
        return self.base.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - torch's own
        self.base.zero_grad(set_to_none)


def test_of_a_wrapper_that_takes_no_hooks_the_optimizer_inside_is_watched(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, base = make_regression()
    session = quiet_attach(model, _Around(base), every=1)

    losses = [train_step(model, _Around(base)) for _ in range(2)]

    assert quiet_attach(model, _Around(base), every=1) is session
    session.close()
    received = receive()
    assert received.drops == {}
    assert [step.loss for step in received.steps] == [loss.item() for loss in losses]
    assert {step.learning_rate for step in received.steps} == {0.1}


def test_an_optimizer_is_found_however_many_others_came_and_went(
    quiet_attach: Attach, receive: Receive
) -> None:
    model, _ = make_regression()
    quiet_attach(model, every=1)

    for _ in range(50):  # their addresses serve again
        train_step(*make_regression())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step(model, optimizer)

    assert len(receive().steps) == 1
