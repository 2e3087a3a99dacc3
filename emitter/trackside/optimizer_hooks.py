"""Hooks around the step of one optimizer: the one given, or the first that updates the model."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from trackside.capture.gradients import trainable
from trackside.capture.held import UnheldModule
from trackside.capture.module_hooks import Removable, unhook

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Args = tuple[object, ...]
Kwargs = dict[str, object]
Begin = Callable[[torch.optim.Optimizer, Args, Kwargs], tuple[Args, Kwargs] | None]
End = Callable[[], None]


class OptimizerHooks:
    """Calls ``end`` after each step, and ``begin`` before those that are armed.

    As long as no optimizer is known, ``begin`` is called before every step.
    ``begin`` may return other arguments for the step. torch iterates over its hooks while they
    run, so `remove` must not be called from within them.

    The optimizer keeps the model alive, and nothing here the optimizer, once there is one.
    """

    _model = UnheldModule()

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, begin: Begin, end: End
    ) -> None:
        self._model = model
        self._held: nn.Module | None = model  # as long as there is no optimizer
        self._optimizer: weakref.ref[torch.optim.Optimizer] | None = None
        self._keeper: RemovableHandle | None = None
        inner = innermost(optimizer)
        if inner is not None:  # else the one that does the work is found when it steps
            self._take(inner)
        self._begin = begin
        self._end = end
        self._handles: list[Removable] = []
        self._armed: list[Removable] = []
        # Optimizers seen that do not update the model; ids alone are used again.
        self._strangers = weakref.WeakSet[torch.optim.Optimizer]()

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer, None as long as none was given or found."""
        return None if self._optimizer is None else self._optimizer()

    @property
    def has_lost(self) -> bool:
        """Whether there was an optimizer, and nobody holds it any more."""
        return self._optimizer is not None and self._optimizer() is None

    def parameters(self) -> list[torch.Tensor]:
        """Return what the optimizer updates, or all of the model as long as there is none."""
        if self.optimizer is not None:
            return trainable(self.optimizer)
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def all_parameters(self) -> list[torch.Tensor]:
        """Return what counts as the session's own, also where it is frozen for a while.

        What the optimizer updates, or all of the model as long as there is none. Both, where
        they have nothing in common: it updates copies in another precision, say.
        """
        of_model: list[torch.Tensor] = list(self._model.parameters())
        if self.optimizer is None:
            return of_model
        updated = [p for group in self.optimizer.param_groups for p in group["params"]]
        own = {id(parameter) for parameter in of_model}
        return updated if any(id(p) in own for p in updated) else [*updated, *of_model]

    def install(self) -> None:
        """Hook the optimizer, or all of them until one is found."""
        if self.optimizer is not None:
            self._handles = [self.optimizer.register_step_post_hook(self._after_own)]
        else:
            self._handles = [
                register_optimizer_step_pre_hook(self._before),
                register_optimizer_step_post_hook(self._after),
            ]

    def arm(self) -> None:
        """Call ``begin`` before the next steps; twice is fine. A step that is not armed pays less.

        The hook is the optimizer's own only where that was given: all of them have it otherwise.
        """
        if len(self._handles) == 1 and not self._armed and self.optimizer is not None:
            self._armed = [self.optimizer.register_step_pre_hook(self._before)]

    def disarm(self) -> None:
        """Call it no more; twice is fine."""
        unhook(self._armed)

    def remove(self) -> None:
        """Unhook; twice is fine."""
        unhook(self._handles)
        unhook(self._armed)
        self._held = None
        if self._keeper is not None:
            self._keeper.remove()

    def _before(
        self, optimizer: torch.optim.Optimizer, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        # A step inside of compiled code is not seen. The name is written out: a function that
        # names neither `torch` nor a tensor is run as it is, and what it calls is compiled.
        if torch.compiler.is_dynamo_compiling():
            return None
        if optimizer is not self.optimizer and not self._adopt(optimizer):
            return None
        return self._begin(optimizer, args, kwargs)

    def _after(
        self, optimizer: torch.optim.Optimizer, args: Args, kwargs: Mapping[str, object]
    ) -> None:
        if optimizer is self.optimizer:
            self._after_own(optimizer, args, kwargs)

    def _after_own(
        self, optimizer: torch.optim.Optimizer, args: Args, kwargs: Mapping[str, object]
    ) -> None:
        del optimizer, args, kwargs
        if not torch.compiler.is_dynamo_compiling():
            self._end()

    def _adopt(self, optimizer: torch.optim.Optimizer) -> bool:
        if self._optimizer is not None or optimizer in self._strangers:
            return False
        own = {id(parameter) for parameter in self._model.parameters()}
        if not any(id(parameter) in own for parameter in trainable(optimizer)):
            self._strangers.add(optimizer)
            return False
        self._take(optimizer)
        return True

    def _take(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = weakref.ref(optimizer)
        # A hook for a moment that hardly ever comes: it holds the model, and costs nothing.
        keep = functools.partial(_keep, self._held)
        # An optimizer that was not made by torch's __init__ takes none; then we hold the model.
        with contextlib.suppress(AttributeError):
            self._keeper = optimizer.register_load_state_dict_post_hook(keep)
            self._held = None


def _keep(model: nn.Module | None, optimizer: torch.optim.Optimizer) -> None:
    """Do nothing when the optimizer has loaded a state."""
    del model, optimizer


def innermost(optimizer: torch.optim.Optimizer | None) -> torch.optim.Optimizer | None:
    """Return the optimizer inside of wrappers such as Accelerate's, whose step they call.

    None where it takes no hooks around its step: one that was not made by torch's ``__init__``,
    mostly a wrapper that names the one inside in a way of its own.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer if hasattr(optimizer, "_optimizer_step_post_hooks") else None
