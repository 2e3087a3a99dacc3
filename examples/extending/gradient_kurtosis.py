"""How heavy the tails of a parameter's gradient are."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.samples import FloatArray, GradientSample


@dataclass(frozen=True, slots=True)
class GradientKurtosis:
    """Excess kurtosis of the sampled elements, mean((g - m)^4) / var^2 - 3: 0 for a normal sample.

    Gradients of attention models have heavy tails, where clipping and adaptive methods pay.

    Source: Zhang et al. 2020, arXiv:1912.03194.
    """

    name: str = field(default="kurtosis", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return one value per parameter; None without samples or where all are equal."""
        return [_kurtosis(sample) for sample in gradients.sample]


def _kurtosis(sample: FloatArray) -> float | None:
    if not sample.size:
        return None
    if not np.isfinite(sample).all():
        return float("nan")
    scale = float(np.abs(sample).max()) or 1.0  # fourth powers of large elements overflow
    centred = sample / np.float64(scale)
    centred -= centred.mean()
    variance = float(np.square(centred).mean())
    return float((centred**4).mean()) / variance**2 - 3 if variance**2 > 0 else None
