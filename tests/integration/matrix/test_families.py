"""Every family of models: what is captured, how it is named, and that training does not notice."""

from collections.abc import Callable
from typing import Any

import model_families as families
import numpy as np
import pytest
import torch
from model_families import FAMILIES

from tracksided.attention import reconstruct
from tracksided.samples import AttentionSample

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

FP32_TOLERANCE = 1e-5  # the contract
CASES = [
    (name, implementation)
    for name, family in FAMILIES.items()
    for implementation in family.implementations
]
Watched = Callable[..., tuple[list[torch.Tensor], tuple[AttentionSample, ...]]]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_every_layer_is_captured_named_and_equal_to_the_model_s_own(
    watched: Watched, name: str, implementation: str, side: str
) -> None:
    family = FAMILIES[name]
    if side == "left" and "attention_mask" not in family.inputs(side):
        side = "none"
    model, inputs = families.build(name, implementation), family.inputs(side)
    expected = families.own_maps(name, model, inputs)
    still = torch.optim.SGD(model.parameters(), lr=0.0)

    _, captured = watched(model, still, inputs, num_steps=1)

    assert len(captured) == len(expected)
    assert {key[:2] for key in expected} == family.paths.keys()
    for one in captured:
        call = one.call
        assert call.module == family.paths[call.stack, call.type].format(call.layer)
        own = expected.pop((call.stack, call.type, call.layer)).numpy()
        rows, hidden = _real_rows(call, side), _padded_keys(call, side)
        found = reconstruct(one).weights
        assert found.shape == own.shape
        assert np.abs(found - own)[:, rows].max() <= FP32_TOLERANCE
        assert own[:, rows].max(axis=-1).mean() > 0.3  # sharp enough for that to mean something
        if "attention_mask" in inputs and hidden is not None:
            assert not found[:, rows][..., hidden].any()
    assert expected == {}


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_training_is_bit_for_bit_the_same(
    train: Callable[..., list[torch.Tensor]], watched: Watched, name: str, implementation: str
) -> None:
    outcomes: list[tuple[list[torch.Tensor], dict[str, torch.Tensor], torch.Tensor]] = []
    for run in (train, lambda *args, **options: watched(*args, every=2, **options)[0]):
        model = families.build(name, implementation, dropout=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = run(model, optimizer, FAMILIES[name].inputs("right"), num_steps=3)
        outcomes.append((losses, model.state_dict(), torch.get_rng_state()))

    (losses, weights, state), (tapped_losses, tapped_weights, tapped_state) = outcomes
    assert torch.equal(torch.stack(losses), torch.stack(tapped_losses))
    assert len(set(map(float, losses))) == len(losses)  # it did train
    assert weights.keys() == tapped_weights.keys()
    assert all(torch.equal(tapped_weights[key], weight) for key, weight in weights.items())
    assert torch.equal(state, tapped_state)


def test_the_mask_of_all_layers_travels_once(watched: Watched) -> None:
    model = families.build("llama", "sdpa")
    still = torch.optim.SGD(model.parameters(), lr=0.0)

    _, (first, second) = watched(model, still, families.tokens("right"), num_steps=1)

    assert first.mask is not None
    assert second.mask is not None
    assert np.shares_memory(first.mask, second.mask)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma", "mixtral"])
@pytest.mark.parametrize("side", ["right", "none"])
def test_grouped_keys_travel_once(watched: Watched, name: str, side: str) -> None:
    model = families.build(name, "sdpa")
    still = torch.optim.SGD(model.parameters(), lr=0.0)

    _, captured = watched(model, still, families.tokens(side), num_steps=1)

    for one in captured:
        assert one.key is not None
        assert one.key.shape[0] == model.config.num_key_value_heads < one.call.num_heads


def _real_rows(call: Any, side: str) -> np.ndarray:
    """Query rows that are tokens: what a padded one attends to is different in every kernel."""
    rows = np.arange(call.num_queries)
    is_padded = side == "left" and call.num_queries == families.LENGTH
    return rows[families.PADDING :] if is_padded else rows


def _padded_keys(call: Any, side: str) -> slice | None:
    return families.padding(side) if call.num_keys == families.LENGTH else None
