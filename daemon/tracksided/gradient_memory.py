"""What of a step's gradient outlives it, to be compared with that of the next sampled step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

MAX_ELEMENTS = 1 << 18  # of one memory


class Gradients(Protocol):
    """What this needs of `tracksided.samples.GradientSample`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""

    @property
    def num_elements(self) -> tuple[int, ...]:
        """How large they are."""

    @property
    def sample(self) -> tuple[FloatArray, ...]:
        """Sampled elements, one array per parameter."""


@dataclass(frozen=True, slots=True)
class GradientMemory:
    """Elements of the gradient of one step.

    Of each parameter every so many of its sampled elements, so that all take 1 MiB at most
    (parameters beyond 262144 are left out).
    """

    step: int
    names: tuple[str, ...]
    num_elements: tuple[int, ...]
    sizes: tuple[int, ...]
    """How many elements were sampled of each parameter."""

    strides: tuple[int, ...]
    elements: tuple[FloatArray, ...]
    """``sample[::stride]`` of each parameter."""

    @classmethod
    def of(cls, step: int, gradients: Gradients) -> "GradientMemory":
        """Copy what is kept."""
        num_kept = min(len(gradients.names), MAX_ELEMENTS)
        limit = MAX_ELEMENTS // max(num_kept, 1)
        samples = gradients.sample[:num_kept]
        strides = tuple(max(1, -(-len(sample) // limit)) for sample in samples)
        return cls(
            step=step,
            names=gradients.names[:num_kept],
            num_elements=gradients.num_elements[:num_kept],
            sizes=tuple(len(sample) for sample in samples),
            strides=strides,
            elements=tuple(s[::n].copy() for s, n in zip(samples, strides, strict=True)),
        )

    def pairs(self, gradients: Gradients) -> Iterator[tuple[int, tuple[FloatArray, FloatArray]]]:
        """Yield index in ``gradients``, elements there, and the same elements here.

        Parameters that are not in both, have another size or no sample are passed over.
        """
        places = {name: place for place, name in enumerate(self.names)}
        for index, (name, sample) in enumerate(zip(gradients.names, gradients.sample, strict=True)):
            place = places.get(name)
            if place is None or not len(sample):
                continue
            shape = (self.num_elements[place], self.sizes[place])
            if shape == (gradients.num_elements[index], len(sample)):
                yield index, (sample[:: self.strides[place]], self.elements[place])
