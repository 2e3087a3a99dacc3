"""Which module is running: its path in the model, found on the Python stack."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

if TYPE_CHECKING:
    from types import FrameType

# Parts of a path that wrappers put in: torch.compile, DDP and its like, FSDP, checkpoint_wrapper.
WRAPPER_NAMES = frozenset(
    {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)

# Every call of a module passes one of these. Only they are asked for their `self`: to ask a frame
# of the user's for its locals would change what his own `locals()` returns (Python < 3.13).
_INNER_CALL_CODE = nn.Module._call_impl.__code__  # noqa: SLF001 - see above
_CALL_CODES = frozenset({_INNER_CALL_CODE, nn.Module._wrapped_call_impl.__code__})  # noqa: SLF001 - see above
_CHECKPOINT_CODE = CheckpointFunction.forward.__code__
_ROOT_PATH = ""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A module on the way from the root to the one that runs."""

    name: str
    """The last part of its path, an empty string for the root."""

    module: nn.Module

    @property
    def class_name(self) -> str:
        """Name of the module's class."""
        return type(self.module).__name__


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the model an attention call was made."""

    lineage: tuple[Ancestor, ...]
    """From the root to the module that made the call; at least the root."""

    shares_sequence: bool | None = None
    """Whether the module was called as (x, x, x) or as (x, y, y); None where as neither."""

    has_encoder_states: bool = False
    """Whether the module was called with a tensor named ``encoder_hidden_states``."""

    @property
    def module(self) -> nn.Module:
        """The module that made the call."""
        return self.lineage[-1].module

    @property
    def path(self) -> str:
        """Full module path without wrappers, an empty string for the root."""
        names = (ancestor.name for ancestor in self.lineage[1:])
        return ".".join(name for name in names if name not in WRAPPER_NAMES)


class ModuleIndex:
    """The modules of a model by identity, as they are when it is built."""

    def __init__(self, root: nn.Module) -> None:
        self._modules = dict(root.named_modules())
        self._paths = {id(module): path for path, module in self._modules.items()}

    def __iter__(self) -> Iterator[Ancestor]:
        """Yield every module with the last part of its path."""
        for path, module in self._modules.items():
            yield Ancestor(path.rpartition(".")[2], module)

    def running(self) -> Place:
        """Return the innermost module whose call is on this thread's stack.

        A module of `torch.nn` that holds nothing, such as Softmax, stands for its parent.
        """
        for frame in _frames():
            if frame.f_code in _CALL_CODES:
                module = frame.f_locals["self"]
                if id(module) in self._paths and not _is_bare_layer(module):
                    states = frame.f_locals["kwargs"].get("encoder_hidden_states")
                    return Place(
                        self._lineage(self._paths[id(module)]),
                        shares_sequence=_shares_sequence(frame.f_locals["args"]),
                        has_encoder_states=isinstance(states, torch.Tensor),
                    )
        return Place(self._lineage(_ROOT_PATH))

    def _lineage(self, path: str) -> tuple[Ancestor, ...]:
        lineage = [Ancestor(_ROOT_PATH, self._modules[_ROOT_PATH])]
        parts = path.split(".") if path else []
        for depth, part in enumerate(parts, 1):
            lineage.append(Ancestor(part, self._modules[".".join(parts[:depth])]))
        return tuple(lineage)


def num_calls(module: nn.Module) -> int:
    """Count how many calls of the module are on this thread's stack, one inside of another."""
    return sum(
        frame.f_code is _INNER_CALL_CODE and frame.f_locals["self"] is module for frame in _frames()
    )


def is_in_reentrant_checkpoint() -> bool:
    """Say whether this is the first forward of `checkpoint(use_reentrant=True)`.

    It runs without gradients, which backward gets from a second forward.
    """
    return any(frame.f_code is _CHECKPOINT_CODE for frame in _frames())


def _frames() -> "Iterator[FrameType]":
    """Yield the frames of this thread's stack, innermost first."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - no public way to this frame
    while frame is not None:
        yield frame
        frame = frame.f_back


def _shares_sequence(arguments: tuple[object, ...]) -> bool | None:
    """Tell self from cross attention by the first arguments: query, key and value."""
    match arguments:
        case (torch.Tensor() as query, torch.Tensor() as key, torch.Tensor() as value, *_):
            if query is key:
                return True
            return False if key is value else None
    return None


def _is_bare_layer(module: nn.Module) -> bool:
    is_of_torch = type(module).__module__.startswith("torch.nn.modules.")
    return is_of_torch and not module._modules and not module._parameters  # noqa: SLF001 - cheap
