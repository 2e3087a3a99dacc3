"""Sessions that are copied, saved or inherited by another process."""

import copy
import io
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from regression import make_regression, train_step
from torch import nn

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
