"""Per-parameter size of the weights, and of the step relative to it."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.samples import GradientSample
from tracksided.statistics.gradient_norms import of_whole


@dataclass(frozen=True, slots=True)
class WeightNorm:
    """L2 norm of the weights before the step, over all elements."""

    name: str = field(default="weight_norm", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return norms, 0 or more; None where other nodes hold elements of a parameter."""
        return of_whole(gradients, gradients.weight_norm)


@dataclass(frozen=True, slots=True)
class UpdateRatio:
    """||after - before|| / ||before|| on the sampled weights.

    About 1e-3 is usual; the ratio of the two norms is what layer-wise optimizers hold steady.

    Source: You et al. 2017, arXiv:1708.03888 (layer-wise ratio of weights to update).
    """

    name: str = field(default="update_ratio", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return ratios, 0 or more; None without samples or where all are 0 before the step."""
        pairs = zip(gradients.weight_before, gradients.weight_after, strict=True)
        return [_update_ratio(before, after) for before, after in pairs]


def _update_ratio(before: np.ndarray, after: np.ndarray) -> float | None:
    start = before.astype(np.float64)
    size = float(np.linalg.norm(start))
    if size == 0:  # also where nothing was sampled
        return None
    with np.errstate(invalid="ignore"):
        return float(np.linalg.norm(after.astype(np.float64) - start)) / size
