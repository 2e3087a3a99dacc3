"""The formulas of docs/stages.md, computed as they stand there, against what the code computes."""

from typing import Any

import numpy as np
import pytest
from documents import blocks
from fake_trainer import make_attention

from tracksided.attention import reconstruct
from tracksided.convergence.loss import convergence_score, find_reference, newer_trend
from tracksided.samples import AttentionSample
from tracksided.statistics.noise_scale import gradient_noise_scale

PAGE, TITLE = "docs/stages.md", "formula"
FUNCTIONS = {
    "abs": abs,
    "clip": np.clip,
    "exp": np.exp,
    "sum": lambda rows: rows.sum(axis=-1, keepdims=True),
}


def compute(result: str, **names: Any) -> dict[str, Any]:
    """Compute the block that gives this result; return all that has a name in it."""
    (text,) = (
        block.text
        for block in blocks("python")
        if (block.page, block.title) == (PAGE, TITLE) and f"{result} = " in block.text
    )
    names |= FUNCTIONS
    exec(compile(text, PAGE, "exec"), names)  # noqa: S102 - the point
    return names


def test_every_formula_is_computed_here() -> None:
    assert len([block for block in blocks("python") if block.title == TITLE]) == 3


def test_weights_of_attention() -> None:
    random = np.random.default_rng(0)
    query, key = (random.standard_normal((2, 6, 4), dtype=np.float32) for _ in range(2))
    sinks = np.array([0.5, -1.0], dtype=np.float32)
    call = make_attention()
    hidden = np.triu(np.full((6, 6), -np.inf), k=1)  # the call is causal
    expected = np.empty((2, 6, 6))
    for head in range(2):
        given = {"query": query, "key": key, "sink": sinks, "mask": hidden, "scale": call.scale}
        # Every m cancels out; the largest only keeps exp in its range.
        compute("weights[h]", h=head, g=(0, 1), m=0.25, weights=expected, **given)

    found = reconstruct(AttentionSample(call, query, key, None, None, sinks))

    np.testing.assert_allclose(found.weights, expected, rtol=1e-5, atol=1e-6)


def test_noise_scale_of_gradients() -> None:
    local, total, ranks = (2.0, 2.5, 3.0, 2.2), 1.75, 4
    squares = {"squared_local": np.mean(np.square(local)), "squared_global": total**2}

    expected = compute("gradient_noise_scale", b=1, B=ranks, **squares)

    found = gradient_noise_scale(local, total, num_ranks=ranks)
    assert found == pytest.approx(expected["gradient_noise_scale"])


def test_score_of_convergence() -> None:
    steps = list(range(1, 201))
    losses = [step**-0.5 for step in steps]
    newest = list(zip(steps, losses, strict=True))[-64:]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(newest)
        for later in newest[index + 1 :]
    ]
    middle, level = np.median(newest, axis=0)
    begin = {"t0": np.median(steps[:5]), "L0": np.median(losses[:5])}

    expected = compute("score", s=np.median(slopes), t=middle, L=level, **begin)

    found = convergence_score(newer_trend(steps, losses), find_reference(steps, losses))
    assert found == pytest.approx(expected["score"])
    assert 0.5 < expected["score"] < 1
