"""Where the elements of a gradient lie: outliers and dead halves that norm and mean hide."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.samples import GradientSample

SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)  # the tails hold ten of 1024 sampled elements each


@dataclass(frozen=True, slots=True)
class GradientQuantiles:
    """Quantiles of the sampled elements at `SHARES`, between two elements on a straight line.

    Source: Hyndman and Fan 1996, Sample quantiles in statistical packages, definition 7.
    """

    name: str = field(default="quantiles", init=False)

    def compute(self, gradients: GradientSample) -> list[float | list[float] | None]:
        """Return ascending values; None without samples, NaN where a sample is not finite."""
        return [_quantiles(sample) if sample.size else None for sample in gradients.sample]


def _quantiles(sample: np.ndarray) -> list[float]:
    if not np.isfinite(sample).all():
        return [float("nan")] * len(SHARES)
    return [float(value) for value in np.quantile(sample.astype(np.float64), SHARES)]
