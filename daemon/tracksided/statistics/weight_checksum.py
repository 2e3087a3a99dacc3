"""What tells whether the replicas of a model are still the same on every rank."""

import zlib

import numpy as np

from trackside.wire.records import REPLICA
from tracksided.samples import GradientSample


def weight_checksum(gradients: GradientSample) -> str | None:
    """Return the CRC-32 of the sampled weights before the step, in hexadecimal.

    Ranks that train replicas (DDP) have equal weights, to the bit. A rank that went its own way
    differs in nearly every element, so that the up to 1024 sampled of each parameter show it.
    Sharded parameters are left out.

    Returns:
        Eight digits; None where every parameter is sharded.
    """
    checksum, has_any = 0, False
    columns = zip(gradients.names, gradients.weight_before, gradients.shards, strict=True)
    for name, weights, shard in columns:
        if shard == REPLICA:
            has_any = True
            checksum = zlib.crc32(name.encode(), checksum)
            checksum = zlib.crc32(np.ascontiguousarray(weights).tobytes(), checksum)
    return f"{checksum:08x}" if has_any else None


def total_weight_norm(gradients: GradientSample) -> float | None:
    """Return the L2 norm of all weights that have a gradient, over all their elements.

    It moves with elements that `weight_checksum` does not sample.

    Returns:
        0 or more; None where a parameter is only partly known.
    """
    if not all(gradients.is_whole):
        return None
    return float(np.linalg.norm(gradients.weight_norm.astype(np.float64)))
