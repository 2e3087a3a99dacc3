"""Samples of a step as a trainer would send them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_trainer import make_attention as make_call
from fake_trainer import make_hello

from trackside.wire.records import REPLICA, Gradients, Step
from tracksided.samples import AttentionSample, GradientSample, Sample, StepSamples

HELLO = make_hello(Path("/nowhere"), world_size=2, local_world_size=2)
STEP = Step(
    step=100,
    epoch=1,
    epoch_requested=False,
    timestamp=0.0,
    loss=1.0,
    learning_rate=1e-3,
    norm_before_clip=None,
    norm_after_clip=None,
    max_norm=None,
    clipped=None,
    clip_rate=None,
    norm_peak=None,
    local_gradient_norm=None,
    step_seconds=None,
    local_seconds=None,
    amp_scale=None,
    micro_batches=None,
    dropped={},
    shrunk=(),
    tokens=(),
    attention=(),
    gradients=None,
    scalars=(),
    texts=(),
    arrays=(),
)


@pytest.fixture(scope="session")
def make_attention() -> Callable[..., AttentionSample]:
    """Build a causal call of 2 heads and 4 positions with seeded queries and keys."""

    def make(seed: int = 0, **fields: object) -> AttentionSample:
        query, key = np.random.default_rng(seed).normal(0, 1, (2, 2, 4, 3)).astype(np.float32)
        call = replace(make_call(2, 4, 4), module="h.0.attn")
        return AttentionSample(replace(call, **fields), query, key, None, None, None)

    return make


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., StepSamples]:
    """Build the samples of ranks; each is given as the fields of its step that differ."""

    def make(
        *ranks: dict[str, object],
        attention: tuple[AttentionSample, ...] = (),
        gradients: GradientSample | None = None,
        **hello: object,
    ) -> StepSamples:
        samples = []
        for rank, fields in enumerate(ranks or ({},)):
            step = replace(STEP, **fields)
            if gradients is not None and rank == 0:
                meta = Gradients(
                    names=gradients.names,
                    num_elements=gradients.num_elements,
                    total_elements=gradients.num_elements,
                    shards=(REPLICA,) * len(gradients.names),
                )
                step = replace(step, gradients=meta)
            greeting = replace(HELLO, rank=rank, local_rank=rank, **hello)
            samples.append(
                Sample(
                    greeting,
                    step,
                    attention if rank == 0 else (),
                    gradients if rank == 0 else None,
                )
            )
        return StepSamples("r", STEP.step, tuple(samples))

    return make


@pytest.fixture(scope="session")
def gradients() -> GradientSample:
    """Two parameters: one sound, one broken."""
    return GradientSample(
        names=("h.0.weight", "h.0.bias"),
        num_elements=(4, 2),
        total_elements=(4, 2),
        shards=(REPLICA, REPLICA),
        norm=np.array([2.0, np.nan], dtype=np.float32),
        abs_max=np.array([1.5, np.inf], dtype=np.float32),
        weight_norm=np.array([3.0, 4.0], dtype=np.float32),
        sample=(
            np.array([1.0, 0.0, -1.0, 2.0], dtype=np.float32),
            np.array([np.nan, np.inf], dtype=np.float32),
        ),
        weight_before=(
            np.array([1.0, 0.0, 0.0, 0.0], dtype=np.float32),
            np.array([2.0, 0.0], dtype=np.float32),
        ),
        weight_after=(
            np.array([1.0, 0.1, 0.0, 0.0], dtype=np.float32),
            np.array([2.0, 0.0], dtype=np.float32),
        ),
    )
