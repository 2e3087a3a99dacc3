"""Sessions that are copied, saved or inherited by another process."""

import copy
import io
import os
import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from regression import make_regression, train_step
from torch import nn

from trackside.capture.local_norm import LocalNorm
from trackside.guard import Guard
from trackside.session import Session
from trackside.wire import segment

Attach = Callable[..., Session]
Receive = Callable[[], Any]


def _saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, _saved_and_loaded])
def test_a_model_that_holds_its_session_is_copied_and_saved(
    quiet_attach: Attach, receive: Receive, copied: Callable[[nn.Module], nn.Module]
) -> None:
    model, optimizer = make_regression()
    session = model.session = quiet_attach(model, optimizer, every=1)

    twin = copied(model)
    twin.session.log(loss=1.0)
    twin.session.close()
    train_step(model, optimizer)

    assert twin.session.run is None
    assert session.run is not None
    (step,) = receive().steps
    assert step.loss != 1.0


def test_a_forked_child_that_attaches_itself_has_a_session_of_its_own(
    quiet_attach: Attach, shm_dir: os.PathLike[str]
) -> None:
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            own = quiet_attach(model, optimizer, every=1)
            train_step(model, optimizer)
            is_counted = own is not session and own.step == 1
            status = 0 if is_counted and len(segment.scan(shm_dir)) == 2 else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert session.step == 0


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        _saved_and_loaded,
        lambda model: ForkingPickler.loads(ForkingPickler.dumps(model)),
        lambda model: copy.deepcopy(nn.Sequential(model))[0],
    ],
)
def test_a_copy_between_steps_is_as_without_us(
    quiet_attach: Attach, copied: Callable[[nn.Module], nn.Module]
) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    train_step(model, optimizer)
    x = torch.ones(5, 4)

    twin = copied(model)

    assert torch.equal(twin(x), model(x))
    assert all("trackside" not in type(hook).__module__ for hook in _hooks(twin))


@pytest.mark.parametrize("copied", [copy.deepcopy, _saved_and_loaded])
def test_a_copy_has_only_the_hooks_of_the_user(
    quiet_attach: Attach, copied: Callable[[nn.Module], nn.Module]
) -> None:
    model, optimizer = make_regression()
    model.register_forward_hook(_own_hook, always_call=True)
    quiet_attach(model, optimizer, every=1)
    train_step(model, optimizer)
    model.register_forward_pre_hook(_own_hook)

    twin = copied(model)

    assert _hooks(twin) == [_own_hook, _own_hook]
    assert len(twin._forward_hooks_always_called) == 1


def test_a_model_in_a_pickle_needs_no_trackside(quiet_attach: Attach) -> None:
    model, optimizer = make_regression()
    quiet_attach(model, optimizer, every=1)
    train_step(model, optimizer)
    assert _hooks(model)

    assert b"trackside" not in bytes(ForkingPickler.dumps(model))


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_model_is_scripted_between_steps(quiet_attach: Attach, receive: Receive) -> None:
    function = torch.jit._recursive.create_script_module
    model, optimizer = make_regression()
    session = quiet_attach(model, optimizer, every=1)
    train_step(model, optimizer)
    x = torch.ones(5, 4)
    hooks = _hooks(model)

    scripted = torch.jit.script(nn.Sequential(model))
    with pytest.raises(RuntimeError, match="modules"):
        torch.jit.script(_Unscriptable(model))

    assert torch.equal(scripted(x), model(x))
    assert _hooks(model) == hooks
    assert hooks
    train_step(model, optimizer)
    session.close()
    assert [step.step for step in receive().steps] == [1, 2]
    assert _hooks(model) == []
    assert torch.jit._recursive.create_script_module is function
    assert not hasattr(torch.save, "__wrapped__")


def test_a_parameter_that_is_listened_to_is_sent_to_a_process_without_a_warning() -> None:
    model, _ = make_regression()
    watch = LocalNorm(Guard(lambda: None))
    watch.arm(model.parameters())
    with pytest.warns(UserWarning, match="will not be serialized"):
        _send(_hooked_by_the_user())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _send(next(model.parameters()))
    watch.disarm()


def _hooked_by_the_user() -> torch.Tensor:
    tensor = torch.ones(2, requires_grad=True)
    tensor.register_hook(torch.clone)
    return tensor


def _send(tensor: torch.Tensor) -> None:
    ForkingPickler.dumps(tensor)


class _Unscriptable(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return next(iter(self.modules()))(x)


def _own_hook(module: nn.Module, *_: object) -> None:
    del module


def _hooks(model: nn.Module) -> list[object]:
    return [*model._forward_pre_hooks.values(), *model._forward_hooks.values()]
