"""Per-parameter numbers estimated from the sampled gradient elements."""

from dataclasses import dataclass, field

import numpy as np

from tracksided.samples import GradientSample


@dataclass(frozen=True, slots=True)
class GradientMean:
    """Mean of the sampled elements."""

    name: str = field(default="mean", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return means; None without samples, NaN or infinite where a sample is."""
        with np.errstate(invalid="ignore"):
            return [
                float(sample.mean(dtype=np.float64)) if sample.size else None
                for sample in gradients.sample
            ]


@dataclass(frozen=True, slots=True)
class GradientStd:
    """Population standard deviation of the sampled elements."""

    name: str = field(default="std", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return deviations; None without samples, NaN where a sample is not finite."""
        with np.errstate(invalid="ignore"):
            return [
                float(sample.std(dtype=np.float64)) if sample.size else None
                for sample in gradients.sample
            ]


@dataclass(frozen=True, slots=True)
class GradientZeroFraction:
    """Share of the sampled elements that are exactly 0: dead units, unused rows, underflow.

    Source: Micikevicius et al. 2017, arXiv:1710.03740 (half-precision gradients become zeros).
    """

    name: str = field(default="zero_fraction", init=False)

    def compute(self, gradients: GradientSample) -> list[float | None]:
        """Return 0 to 1; None without samples."""
        return [
            float(np.count_nonzero(sample == 0) / sample.size) if sample.size else None
            for sample in gradients.sample
        ]
