"""The attention tap: sees every attention call of one armed training forward."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from trackside.capture.captured import CapturedAttention

Heads = Literal["all", "average"] | tuple[int, ...]


class AttentionTap:
    """Captures queries and keys, or logits, of one sample in one forward of a model."""

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
        raise NotImplementedError

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something could not be captured, each reason once."""
        raise NotImplementedError

    def install(self) -> None:
        """Hook the root module."""
        raise NotImplementedError

    def remove(self) -> None:
        """Take everything off the model and off torch; twice is fine."""
        raise NotImplementedError

    def arm(self) -> None:
        """Capture the next forward of the root that runs with gradients."""
        raise NotImplementedError

    def disarm(self) -> None:
        """Capture nothing; drop what was captured."""
        raise NotImplementedError

    def take(self) -> tuple[CapturedAttention, ...]:
        """Return what was captured since `arm`, in order of execution, and forget it."""
        raise NotImplementedError
