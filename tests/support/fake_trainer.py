"""A trainer without torch: publishes valid records through the real ring and doorbell.

As a program (``python fake_trainer.py DIRECTORY SAVE_DIR STEPS [RANK WORLD_SIZE]``) it is a rank
that can be killed. It prints each step after it was published, or dropped.
"""

import os
import secrets
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackside.wire.doorbell import Doorbell
from trackside.wire.records import (
    REPLICA,
    ArraySpec,
    Attention,
    Close,
    Gradients,
    Hello,
    LoggedScalar,
    RecordKind,
    Step,
    encode,
)
from trackside.wire.ring import PublishResult, RingWriter
from trackside.wire.segment import SegmentName

RUN = "fake-run"
HEADS, QUERIES, KEYS, HEAD_DIM = 2, 6, 6, 4
PARAMETERS = ("embed.weight", "head.weight")
SAMPLED = 3  # elements of each parameter


def make_hello(save_dir: Path, **changes: Any) -> Hello:
    hello = Hello(
        run=RUN,
        rank=0,
        local_rank=0,
        world_size=1,
        local_world_size=1,
        node_rank=0,
        hostname="host",
        pid=os.getpid(),
        attempt=0,
        started_at=time.time(),
        started_boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
        save_dir=str(save_dir),
        checkpoints=(),
        every=10,
        visualize=("heatmap", "statistics"),
        save_raw=False,
        config={},
        versions={"torch": "0"},
    )
    return replace(hello, **changes)


def make_attention(
    num_heads: int = HEADS, num_queries: int = QUERIES, num_keys: int = KEYS
) -> Attention:
    return Attention(
        stack="decoder",
        type="self_attention",
        layer=0,
        module="blocks.0.attn",
        scale=0.5,
        is_causal=True,
        heads=tuple(range(num_heads)),
        key_heads=tuple(range(num_heads)),
        num_heads=num_heads,
        num_queries=num_queries,
        num_keys=num_keys,
        query_rows=tuple(range(num_queries)),
    )


def make_arrays(step: int, *, with_attention: bool) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(step)
    floats = {
        "gradients/norm": len(PARAMETERS),
        "gradients/abs_max": len(PARAMETERS),
        "gradients/weight_norm": len(PARAMETERS),
        "gradients/sample": len(PARAMETERS) * SAMPLED,
        "gradients/weight_before": len(PARAMETERS) * SAMPLED,
        "gradients/weight_after": len(PARAMETERS) * SAMPLED,
    }
    arrays: dict[str, NDArray[Any]] = {
        name: random.random(size, dtype=np.float32) for name, size in floats.items()
    }
    arrays["gradients/sample_count"] = np.full(len(PARAMETERS), SAMPLED, dtype=np.int64)
    if with_attention:
        shape = (HEADS, QUERIES, HEAD_DIM)
        arrays["attention/0/query"] = random.standard_normal(shape, dtype=np.float32)
        arrays["attention/0/key"] = random.standard_normal(shape, dtype=np.float32)
    return arrays


def make_step(step: int, *, with_attention: bool = True, **changes: Any) -> Step:
    base = Step(
        step=step,
        epoch=None,
        epoch_requested=False,
        timestamp=1_700_000_000.0 + step,
        loss=10.0 / step,
        learning_rate=0.001,
        norm_before_clip=2.0,
        norm_after_clip=1.0,
        max_norm=1.0,
        clipped=True,
        clip_rate=0.5,
        norm_peak=2.0,
        local_gradient_norm=2.5,
        step_seconds=0.1,
        local_seconds=0.05,
        amp_scale=None,
        micro_batches=1,
        dropped={},
        shrunk=(),
        tokens=(),
        attention=(make_attention(),) if with_attention else (),
        gradients=Gradients(
            names=PARAMETERS,
            num_elements=(12, 12),
            total_elements=(12, 12),
            shards=(REPLICA, REPLICA),
        ),
        scalars=(LoggedScalar(step=step, name="accuracy", value=0.25),),
        texts=(),
        arrays=(),
    )
    return replace(base, **changes)


class FakeRank:
    """One rank's segment, written from this process."""

    def __init__(
        self, directory: Path, hello: Hello, *, nonce: str = "a", ring_bytes: int = 1 << 20
    ) -> None:
        self.hello = hello
        name = SegmentName(hello.run, hello.rank, hello.pid, nonce)
        self.writer = RingWriter.create(directory, name, ring_bytes=ring_bytes, hello=encode(hello))
        self._doorbell = Doorbell(directory)
        self._published = 0

    def publish(
        self, step: int, *, arrays: dict[str, NDArray[Any]] | None = None, **changes: Any
    ) -> PublishResult:
        with_attention = self.hello.rank == 0
        arrays = make_arrays(step, with_attention=with_attention) | (arrays or {})
        specs: list[ArraySpec] = []
        chunks: list[tuple[int, memoryview]] = []
        offset = 0
        for name, array in arrays.items():
            specs.append(
                ArraySpec(
                    name=name,
                    dtype=str(array.dtype),
                    shape=array.shape,
                    offset=offset,
                    nbytes=array.nbytes,
                )
            )
            chunks.append((offset, memoryview(array)))
            offset += -(-array.nbytes // 64) * 64
        metadata = make_step(step, with_attention=with_attention, arrays=tuple(specs), **changes)
        result = self.writer.publish(RecordKind.STEP, step, encode(metadata), chunks, offset)
        self._published += result is PublishResult.PUBLISHED
        self._doorbell.ring()
        return result

    def close(self, *, steps: int = 0) -> None:
        close = Close(
            reason="closed",
            timestamp=time.time(),
            steps=steps,
            sampled=self._published,
            published=self._published,
            dropped=self.writer.drops,
            loss=0.5,
            scalars=(),
            texts=(),
        )
        self.writer.publish(RecordKind.CLOSE, 0, encode(close))
        self.abandon()

    def abandon(self) -> None:
        """End without a word, as `attach` never does."""
        self.writer.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Ring once more and let go of the doorbell."""
        self._doorbell.ring()
        self._doorbell.close()


def main(arguments: list[str]) -> None:
    directory, save_dir = Path(arguments[0]), Path(arguments[1])
    steps = int(arguments[2])
    rank, world_size = (int(arguments[3]), int(arguments[4])) if len(arguments) > 3 else (0, 1)
    hello = make_hello(save_dir, rank=rank, world_size=world_size, local_world_size=world_size)
    trainer = FakeRank(directory, hello, nonce=secrets.token_hex(8))
    for step in range(1, steps + 1):
        result = trainer.publish(step)
        sys.stdout.write(f"{step} {result.value}\n")
        sys.stdout.flush()
        time.sleep(0.01)
    trainer.close(steps=steps)


if __name__ == "__main__":
    main(sys.argv[1:])
