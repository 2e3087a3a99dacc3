"""Compiled code runs eagerly while a step is captured, and compiled again after it."""

import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


class Stance:
    """Holds torch.compile's stance at ``force_eager``, and puts back the one before.

    Not inside a module's hook: a compiled model would be traced through it.
    """

    def __init__(self) -> None:
        self._put_back: Callable[[None, None, None], object] | None = None

    def force_eager(self) -> None:
        """Run compiled code eagerly; nothing happens where nothing can be compiled yet."""
        if self._put_back is None and "torch._dynamo" in sys.modules:
            self._put_back = torch.compiler.set_stance("force_eager").__exit__

    def restore(self) -> None:
        """Put the user's stance back; twice is fine."""
        put_back, self._put_back = self._put_back, None
        if put_back is not None:
            put_back(None, None, None)
