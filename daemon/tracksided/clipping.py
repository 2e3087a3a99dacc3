"""Clipping by other means than torch's, told by what became of the gradients since backward."""

import math
from dataclasses import replace

import numpy as np

from tracksided.samples import FloatArray, GradientSample, Sample, StepSamples

TOLERANCE = 1e-3  # of a norm: more than what scaling back and forth rounds away
EXACT = 1e-6  # of a factor: single precision, rounded twice


def infer_clipping(samples: StepSamples) -> StepSamples:
    """Give the leader the norm before clipping where only sampled elements tell of it.

    Sampled elements b_j at the end of backward and a_j at the start of the optimizer's step give
    each parameter's factor r = sqrt(sum b_j^2 / sum a_j^2), and the norm before the change is
    sqrt(sum (r_i |g_i|)^2) over the parameters, with |g_i| their norms now. That is exact where
    parameters are scaled as a whole (by global norm, or each by its own), an estimate where
    elements are cut. A norm that shrank was clipped; to what limit is not known.

    Where torch's own clipping was called there is nothing to tell, and nothing changes. Where all
    was divided by one whole number it was averaged, over micro-batches say, and nothing clipped;
    norms of a rank's own gradient are divided likewise.
    """
    leader = samples.leader
    gradients, step = leader.gradients, leader.step
    if gradients is None or gradients.unclipped is None or step.norm_after_clip is None:
        return samples
    if not math.isfinite(step.norm_after_clip):
        return samples
    before = _norm_before(gradients, gradients.unclipped)
    if before is not None and math.isclose(before, step.norm_after_clip, rel_tol=TOLERANCE):
        return samples
    parts = _whole_number_of_parts(gradients, gradients.unclipped)
    if parts is not None:
        return replace(samples, samples=tuple(_averaged(each, parts) for each in samples.samples))
    was_local = step.local_gradient_norm == step.norm_before_clip
    step = replace(
        step,
        norm_before_clip=before,
        local_gradient_norm=before if was_local else step.local_gradient_norm,
        clipped=before is None or before > step.norm_after_clip,
        clip_rate=None,  # the steps in between were not looked at
    )
    changed = replace(leader, step=step)
    return replace(samples, samples=(changed, *samples.samples[1:]))


def _whole_number_of_parts(
    gradients: GradientSample, unclipped: tuple[FloatArray, ...]
) -> int | None:
    """Return what all gradients were divided by, None if that is no whole number above 1."""
    columns = zip(gradients.sample, unclipped, strict=True)
    squares = [(_sum_of_squares(before), _sum_of_squares(after)) for after, before in columns]
    if any((before == 0) != (after == 0) for before, after in squares):
        return None
    factors = [math.sqrt(before / after) for before, after in squares if after]
    if not factors or not all(map(math.isfinite, factors)):
        return None
    parts = round(factors[0])
    is_all = all(math.isclose(factor, parts, rel_tol=EXACT) for factor in factors)
    return parts if parts > 1 and is_all else None


def _averaged(sample: Sample, parts: int) -> Sample:
    norm = sample.step.local_gradient_norm
    if norm is None or norm == sample.step.norm_before_clip:  # of an only rank
        return sample
    return replace(sample, step=replace(sample.step, local_gradient_norm=norm / parts))


def _norm_before(gradients: GradientSample, unclipped: tuple[FloatArray, ...]) -> float | None:
    """Return the norm, None where a gradient was wiped out: nothing tells how large it was."""
    total = 0.0
    columns = zip(gradients.norm, gradients.sample, unclipped, strict=True)
    for norm, after, before in columns:
        squares_before, squares_after = _sum_of_squares(before), _sum_of_squares(after)
        if squares_before == squares_after:  # also where both are 0
            total += float(norm) ** 2
        elif squares_after == 0:
            return None
        else:
            total += squares_before / squares_after * float(norm) ** 2
    return math.sqrt(total) if math.isfinite(total) else None


def _sum_of_squares(values: FloatArray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
