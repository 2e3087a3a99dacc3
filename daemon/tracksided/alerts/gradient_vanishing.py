"""Gradients that are too small to teach anything, of the whole model or of a layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.convergence.robust import finite, median
from tracksided.observations import Observation

ADVICE = (
    "Look for saturated or dead activations, a detached part of the graph, a loss scale that is "
    "too low, or a learning rate of 0; residual connections, normalisation and another "
    "initialisation keep gradients alive."
)
MIN_LAYERS = 3  # fewer have no typical one among them
MIN_PROGRESS = 0.01  # of the loss within the window: then it learns, however small its gradient
CONVERGED = 0.1  # of what the loss was: then a small gradient is what one wants


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientVanishing:
    """The norm stays below max_norm while the loss stays up; or a layer's stays tiny.

    max_norm is times the loss where that is below 1. The norm of a layer counts as tiny below
    layer_ratio times the median of all layers. In both cases for window_steps samples in a row.

    Source: Pascanu et al. 2012, arXiv:1211.5063.
    """

    name: ClassVar[str] = "gradient_vanishing"

    enabled: bool = True
    max_norm: float = 0.01
    """For a loss of 1 or more; times the loss below it."""

    layer_ratio: float = 0.001
    window_steps: int = 20

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Look at the whole model first."""
        if len(before) < self.window_steps - 1:
            return None
        recent = (*before[len(before) - self.window_steps + 1 :], now)
        return self._whole(recent, before) or self._layer(recent, before)

    def _whole(
        self, recent: Sequence[Observation], before: Sequence[Observation]
    ) -> Finding | None:
        norms = finite(entry.gradient_norm for entry in recent)
        losses = finite(entry.loss for entry in recent)
        # A gradient is as large as its loss: a small one says nothing where that is small, too.
        scale = min(1.0, median([abs(loss) for loss in losses])) if losses else 1.0
        limit = self.max_norm * scale
        if len(norms) < self.window_steps or max(norms) >= limit:
            return None
        first = finite(entry.loss for entry in before[: self.window_steps])
        if losses and first and _is_learning(losses, median(first)):
            return None
        return Finding(
            severity="warning",
            value=median(norms),
            threshold=limit,
            message=(
                f"gradient norm has been below {limit:.3g} for {self.window_steps} samples "
                f"(median {median(norms):.3g}), and the loss does not fall"
            ),
            advice=ADVICE,
        )

    def _layer(
        self, recent: Sequence[Observation], before: Sequence[Observation]
    ) -> Finding | None:
        """Look for layers that stay tiny; one that had a gradient and has none counts as 0."""
        has_earlier = len(before) >= self.window_steps
        known = before[len(before) - self.window_steps].layer_norms if has_earlier else {}
        norms: dict[str, float] = {}
        typical = 0.0
        tiny: set[str] | None = None
        for entry in recent:
            found = {name: norm for name, norm in entry.layer_norms.items() if math.isfinite(norm)}
            if len(found) < MIN_LAYERS:
                return None
            norms = dict.fromkeys(known.keys() - entry.layer_norms.keys(), 0.0) | found
            typical = median(list(found.values()))
            below = {name for name, norm in norms.items() if norm < self.layer_ratio * typical}
            tiny = below if tiny is None else tiny & below
            if not tiny:
                return None
        assert tiny  # noqa: S101 - recent is not empty
        worst = min(sorted(tiny), key=lambda name: norms[name])
        others = f" (and {len(tiny) - 1} more)" if len(tiny) > 1 else ""
        return Finding(
            severity="warning",
            value=norms[worst],
            threshold=self.layer_ratio * typical,
            message=(
                f"the gradient of layer {worst}{others} has been below {self.layer_ratio:g} of the "
                f"typical layer's for {self.window_steps} samples: {norms[worst]:.3g} against "
                f"{typical:.3g}"
            ),
            advice=ADVICE,
        )


def _is_learning(losses: Sequence[float], first: float) -> bool:
    """Whether the loss falls, or is already a small part of what it was."""
    half = len(losses) // 2
    earlier, later = median(losses[: half or 1]), median(losses[half:])
    return earlier - later > MIN_PROGRESS * abs(earlier) or 0 <= later < CONVERGED * first
