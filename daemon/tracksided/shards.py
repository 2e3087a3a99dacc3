"""Puts the shards of parameters together: what the ranks of a node hold of a sharded model.

Under FSDP2 each rank reads its own shards. The L2 norm of a whole gradient is the root of the
sum of the squares of its shards' norms; ranks that hold copies of one shard count once.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trackside.wire.records import REPLICA
from tracksided.samples import FloatArray, GradientSample, StepSamples

_FLOAT = np.float32


def join_shards(samples: StepSamples) -> StepSamples:
    """Give the leader whole gradients, and norms over all of them where it had none.

    Parameters of which the node holds only a part stay as they are known here:
    `GradientSample.is_whole` tells. Without sharded parameters nothing changes.
    """
    leader = samples.leader
    held = [sample.gradients for sample in samples.samples if sample.gradients is not None]
    step = leader.step
    is_whole = step.norm_after_clip is not None and all(all(part.is_whole) for part in held)
    has_shards = any(shard != REPLICA for part in held for shard in part.shards)
    if leader.gradients is None or is_whole or not has_shards:
        return samples
    whole = _join(held)
    if step.norm_after_clip is None and all(whole.is_whole):
        after = float(np.linalg.norm(whole.norm.astype(np.float64)))
        step = replace(step, norm_after_clip=after)
    if step.norm_before_clip is None and step.clipped is False:
        step = replace(step, norm_before_clip=step.norm_after_clip)
    joined = replace(leader, step=step, gradients=whole)
    return replace(samples, samples=(joined, *samples.samples[1:]))


_Shard = tuple[GradientSample, int]
"""In which rank's sample a shard lies, at which index."""


def _join(held: Sequence[GradientSample]) -> GradientSample:
    parameters: dict[str, dict[int, _Shard]] = {}
    for gradients in held:
        for index, (name, shard) in enumerate(zip(gradients.names, gradients.shards, strict=True)):
            parameters.setdefault(name, {}).setdefault(shard, (gradients, index))
    parts = [[found[shard] for shard in sorted(found)] for found in parameters.values()]
    return GradientSample(
        names=tuple(parameters),
        num_elements=tuple(sum(g.num_elements[i] for g, i in shards) for shards in parts),
        total_elements=tuple(max(g.total_elements[i] for g, i in shards) for shards in parts),
        shards=tuple(min(found) for found in parameters.values()),
        norm=_root_of_squares([[g.norm[i] for g, i in shards] for shards in parts]),
        abs_max=np.array([np.max([g.abs_max[i] for g, i in shards]) for shards in parts], _FLOAT),
        weight_norm=_root_of_squares([[g.weight_norm[i] for g, i in shards] for shards in parts]),
        sample=_concatenate([[g.sample[i] for g, i in shards] for shards in parts]),
        weight_before=_concatenate([[g.weight_before[i] for g, i in shards] for shards in parts]),
        weight_after=_concatenate([[g.weight_after[i] for g, i in shards] for shards in parts]),
        unclipped=_concatenate(
            [[g.unclipped[i] for g, i in shards if g.unclipped is not None] for shards in parts]
        )
        if all(gradients.unclipped is not None for gradients in held)
        else None,
    )


def _root_of_squares(norms: Sequence[Sequence[float]]) -> FloatArray:
    # hypot neither overflows nor loses small parts on the way; infinity stays, NaN by itself too.
    return np.array([math.hypot(*parts) for parts in norms], _FLOAT)


def _concatenate(parts: Sequence[Sequence[FloatArray]]) -> tuple[FloatArray, ...]:
    return tuple(np.concatenate(columns) for columns in parts)
