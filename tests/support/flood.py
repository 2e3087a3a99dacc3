"""Ranks that publish: ``python flood.py DIRECTORY SAVE_DIR RANKS [STEPS [PERIOD_S]]``.

Without a number of steps they publish until they are killed; without a period, as fast as the
ring takes it: a full one is tried again. At its end it prints the drops of all ranks.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_trainer import FakeRank, make_attention, make_hello

from trackside.wire.ring import PublishResult

HEADS, SIDE, HEAD_DIM, LAYERS = 8, 128, 32, 2
RING_BYTES = 16 << 20
PAUSE_S = 0.001  # of a full ring


def main(arguments: list[str]) -> None:
    directory, save_dir, num_ranks = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    steps = int(arguments[3]) if len(arguments) > 3 else sys.maxsize
    period_s = float(arguments[4]) if len(arguments) > 4 else 0.0
    ranks = [
        FakeRank(
            directory,
            make_hello(save_dir, rank=rank, world_size=num_ranks, local_world_size=num_ranks),
            nonce=f"r{rank}",
            ring_bytes=RING_BYTES,
        )
        for rank in range(num_ranks)
    ]
    call = make_attention(HEADS, SIDE, SIDE)
    calls = tuple(replace(call, layer=layer) for layer in range(LAYERS))
    noise = np.random.default_rng(0).standard_normal((HEADS, SIDE, HEAD_DIM), dtype=np.float32)
    arrays = {
        f"attention/{layer}/{name}": noise for layer in range(LAYERS) for name in ("query", "key")
    }
    start = time.monotonic()
    for step in range(1, steps + 1):
        time.sleep(max(0.0, start + step * period_s - time.monotonic()))
        for rank in ranks:
            attention = {"attention": calls, "arrays": arrays} if rank.hello.rank == 0 else {}
            while rank.publish(step, **attention) is not PublishResult.PUBLISHED and not period_s:
                time.sleep(PAUSE_S)
    drops = sum(sum(rank.writer.drops.values()) for rank in ranks)
    for rank in ranks:
        rank.close(steps=steps)
    sys.stdout.write(f"{drops}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
