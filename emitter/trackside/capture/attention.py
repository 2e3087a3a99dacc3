"""The attention tap: sees every attention call of one armed training forward."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._C import (
    _get_function_stack_at,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)
from torch.overrides import TorchFunctionMode

from trackside.capture.captured import CapturedAttention
from trackside.capture.recording import Group, Heads, Recording, TapSettings

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_Observer = Callable[[object, Sequence[object], Mapping[str, object]], None]


class AttentionTap:
    """Captures queries and keys, or logits, of one sample in one forward of a model.

    ========= ================================================================================
    state     leaves it by
    ========= ================================================================================
    idle      `arm`
    armed     a forward of the root that runs with gradients -> recording; `disarm` -> idle
    recording the end of that forward -> idle, with something to `take` unless it raised
    ========= ================================================================================

    While recording, and only then, a `TorchFunctionMode` is on torch's stack. The model's calls
    run once, as they are; what goes wrong in the tap goes to ``on_error``. Use it from the thread
    that trains.

    Under gradients only: outside of them the mode would switch off the fast path of
    `torch.nn.MultiheadAttention`. A part of a forward that is in eval mode under `no_grad` does
    lose it while recording.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: tuple[int, ...] | None,
        heads: Heads,
        sample: int,
        max_queries: int,
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        """Prepare; nothing touches the model before `install`.

        Args:
            model: the root whose forward is watched; of a compiled one, what was compiled.
            layers: per stack and type, negative from the end; None is all.
            heads: which ones; "average" captures all.
            sample: index in the batch.
            max_queries: query rows kept per call, evenly spaced, at least 1.
            on_error: gets a place and an exception of ours; must not raise.
        """
        self._root = model
        self._settings = TapSettings(
            layers=layers, heads=heads, sample=sample, max_queries=max_queries
        )
        self._on_error = on_error
        self._handles: list[RemovableHandle] = []
        self._notes: dict[str, None] = {}  # in order of occurrence
        self._layer_counts: dict[Group, int] = {}
        self._captured: tuple[CapturedAttention, ...] = ()
        self._is_armed = False
        self._is_removed_late = False
        self._recording: Recording | None = None
        self._mode: _CallMode | None = None
        self._depth = 0  # calls of the root inside of one another
        self._exception_before: BaseException | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something could not be captured, each reason once."""
        return tuple(self._notes)

    def install(self) -> None:
        """Hook the root module; twice is fine."""
        if self._handles:
            return
        self._is_removed_late = False
        self._handles = [
            self._root.register_forward_pre_hook(_RootHook(self._before_forward)),
            # First of the hooks behind the forward, and also when the forward raises.
            self._root.register_forward_hook(
                _RootHook(self._after_forward), prepend=True, always_call=True
            ),
        ]

    def remove(self) -> None:
        """Take everything off the model and off torch; twice is fine.

        In the middle of one of the tap's own calls torch has put the mode aside; then the rest is
        done when the forward ends.
        """
        self._is_armed = False
        self._captured = ()
        self._recording = None
        if self._mode is not None and not self._pop():
            self._is_removed_late = True
            return
        self._unhook()

    def arm(self) -> None:
        """Capture the next forward of the root that runs with gradients."""
        self.disarm()
        self._is_armed = bool(self._handles)

    def disarm(self) -> None:
        """Capture nothing; drop what was captured.

        Also ends a recording whose forward was left by an exception for which torch calls no
        hooks, such as KeyboardInterrupt.
        """
        self._is_armed = False
        self._captured = ()
        self._recording = None
        if self._mode is not None:
            self._pop()

    def take(self) -> tuple[CapturedAttention, ...]:
        """Return what was captured since `arm`, in order of execution, and forget it."""
        captured, self._captured = self._captured, ()
        return captured

    def _before_forward(self, module: nn.Module) -> None:
        # Compiled code must not depend on the tap: a compiled model is run eagerly to be captured.
        if torch.compiler.is_compiling() or not (self._is_armed or self._depth):
            return
        if module is not self._root:  # a replica of nn.DataParallel, in a thread of its own
            return
        if self._depth:
            self._depth += 1
        elif torch.is_grad_enabled():
            self._is_armed = False
            with self._guard("start of the forward"):
                self._recording = Recording(
                    self._root, self._settings, self._layer_counts, self._note
                )
                self._exception_before = sys.exception()
                self._mode = _CallMode(self._observe)
                _push_on_torch_function_stack(self._mode)
                self._depth = 1

    def _after_forward(self, module: nn.Module) -> None:
        if torch.compiler.is_compiling() or not self._depth:
            return
        if module is not self._root:
            return
        self._depth -= 1
        if self._depth:
            return
        has_raised = sys.exception() is not self._exception_before
        self._exception_before = None
        recording, self._recording = self._recording, None
        with self._guard("end of the forward"):
            self._pop()
            self._mode = None  # also where somebody else has taken it off
            if recording is not None and not has_raised:
                self._captured = recording.finish()
                self._layer_counts = dict(recording.counts)
        if self._is_removed_late:
            self._captured = ()
            self._unhook()

    def _observe(self, func: object, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        recording = self._recording
        if recording is not None:
            with self._guard("attention"):
                recording.observe(func, args, kwargs)

    @contextlib.contextmanager
    def _guard(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the training
            self._on_error(f"attention tap, {where}", error)

    def _note(self, reason: str) -> None:
        self._notes[reason] = None

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _pop(self) -> bool:
        """Take the mode off torch's stack and leave the others; False where it is not there."""
        mode = self._mode
        stack = (_get_function_stack_at(i) for i in range(_len_torch_function_stack()))
        if not any(other is mode for other in stack):
            return False
        above = []
        while (top := _pop_torch_function_stack()) is not mode:
            above.append(top)
        for other in reversed(above):
            _push_on_torch_function_stack(other)
        self._mode = None
        self._depth = 0
        return True


class _CallMode(TorchFunctionMode):
    """Runs every call as it is, then shows it to the tap."""

    def __init__(self, observe: _Observer) -> None:
        super().__init__()
        self._observe = observe

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        passed = kwargs or {}
        result = func(*args, **passed)
        self._observe(func, args, passed)
        return result


class _RootHook:
    """A hook of the root that does not follow the module into a copy or a file."""

    def __init__(self, call: Callable[[nn.Module], None]) -> None:
        self._call = call

    def __call__(self, module: nn.Module, *_: object) -> None:
        self._call(module)

    def __deepcopy__(self, memo: dict[int, object]) -> "_RootHook":
        return _RootHook(_do_nothing)

    def __reduce__(self) -> tuple[type["_RootHook"], tuple[Callable[[nn.Module], None]]]:
        return _RootHook, (_do_nothing,)


def _do_nothing(module: nn.Module) -> None:
    """Stand in for the hook of a module that was copied or saved."""
