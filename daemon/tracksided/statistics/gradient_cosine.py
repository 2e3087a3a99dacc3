"""Whether a gradient points where that of the sampled step before pointed.

Near 1 the loss falls along one valley, near 0 successive batches say different things, below 0
the steps jump from wall to wall.

Source: Xing et al. 2018, A Walk with SGD, arXiv:1802.08770.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tracksided.samples import GradientSample


@dataclass(frozen=True, slots=True)
class GradientCosine:
    """Cosine between the sampled elements of a parameter and the same ones of the step before."""

    name: str = field(default="cosine_to_previous", init=False)

    def compute(self, gradients: GradientSample) -> list[float | list[float] | None]:
        """Return -1 to 1; None where the step before is not known or a gradient is all 0."""
        values: list[float | list[float] | None] = [None] * len(gradients.names)
        for index, products in _products(gradients):
            values[index] = _cosine(products)
        return values


def gradient_cosine(gradients: GradientSample) -> float | None:
    """Estimate the cosine between the whole gradient and that of the sampled step before.

    Each parameter's products count as its number of elements over the number compared, so that
    large parameters weigh what they weigh in the gradient. Parameters that are not in both
    steps are left out.

    Returns:
        -1 to 1; None where no parameter is in both, or one gradient is all 0.
    """
    total = np.zeros(3)
    for index, products in _products(gradients):
        total += products * gradients.num_elements[index]
    return _cosine(total)


def _products(gradients: GradientSample) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and means of now * before, now * now, before * before, [3]."""
    if gradients.previous is None:
        return
    for index, (now, before) in gradients.previous.pairs(gradients):
        a, b = now.astype(np.float64), before.astype(np.float64)
        with np.errstate(invalid="ignore"):
            yield index, np.array([a @ b, a @ a, b @ b]) / len(a)


def _cosine(products: np.ndarray) -> float | None:
    dot, now, before = map(float, products)
    size = math.sqrt(now) * math.sqrt(before)
    # Rounding may lead a little beyond 1; NaN stays.
    return None if size == 0 else float(np.clip(dot / size, -1, 1))
