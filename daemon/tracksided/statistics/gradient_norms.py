"""Per-parameter numbers from whole gradients, as the optimizer saw them."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.samples import FloatArray, GradientSample


@dataclass(frozen=True, slots=True)
class GradientNorm:
    """L2 norm of the gradient, over all its elements.

    Source: Pascanu et al. 2012, arXiv:1211.5063.
    """

    name: str = field(default="norm", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return norms, 0 or more; NaN or infinite where the gradient is."""
        return of_whole(gradients, gradients.norm)


@dataclass(frozen=True, slots=True)
class GradientAbsMax:
    """Largest magnitude in the gradient, over all its elements."""

    name: str = field(default="abs_max", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return magnitudes, 0 or more; NaN or infinite where the gradient is."""
        return of_whole(gradients, gradients.abs_max)


@dataclass(frozen=True, slots=True)
class GradientNonfinite:
    """Whether any element is NaN or infinite: then the largest magnitude is not finite.

    A norm alone may overflow in half precision while every element is finite.
    """

    name: str = field(default="nonfinite", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return True or False; None where none is seen, but not all are."""
        flags = ~np.isfinite(gradients.abs_max)
        return [
            bool(flag) if flag or is_whole else None
            for flag, is_whole in zip(flags, gradients.is_whole, strict=True)
        ]


def of_whole(gradients: GradientSample, values: FloatArray) -> list[float | None]:
    """Return one value per parameter; None where other nodes hold elements of it."""
    return [
        float(value) if is_whole else None
        for value, is_whole in zip(values, gradients.is_whole, strict=True)
    ]
