"""Any checkpoint around a model, built entry by entry together with what must come out of it."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_tensors import AVERAGED, KEPT, mean, random_tensor
from torch import nn

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance


def adam(step: int) -> Any:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.full((2,), float(step))
    optimizer.step()
    return optimizer.state_dict()


def schedule(step: int) -> Any:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1 * (step + 1))
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict()


def scaler(step: int) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=2.0**step).state_dict()


def python_random(step: int) -> Any:
    return random.Random(step).getstate()


def moments(step: int) -> Any:
    return {"m": torch.full((2,), float(step)), "v": [torch.ones(2)]}


class Entry(NamedTuple):
    """One entry beside the model: how it is made, and what must be left of it, if anything."""

    key: str
    make: Callable[[int], Any]
    left: Callable[[int], Any] | None
    """None where the entry goes."""

    gone: str | None
    """What `dropped` says."""


NEUTRAL = st.sampled_from(["alpha", "beta_2", "info", "trainer", "run", "callbacks_", "history"])
NAMED = st.sampled_from(["optimizer", "d_opt", "last_optim_state", "adam", "optimizerG", "sgd_1"])
SHAPED = st.sampled_from([adam, schedule, scaler, python_random])
SETTINGS: dict[str, Any] = {
    "optimizer": {"lr": 0.1, "betas": [0.9, 0.99], "name": "adamw"},
    "scheduler": {"warmup": 10, "last_epoch": -1},
    "ema_decay": 0.999,
    "rng": 5,
}


def whole(key: str, make: Callable[[int], Any]) -> Entry:
    return Entry(key, make, None, key)


def listed(key: str, make: Callable[[int], Any]) -> Entry:
    return Entry(key, lambda step: [step, [make(step)]], None, key)


def inside(key: str, make: Callable[[int], Any]) -> Entry:
    return Entry(
        key,
        lambda step: {"a": [{"b": make(step), "c": step}]},
        lambda step: {"a": [{"c": step}]},
        f"{key}.a.0.b",
    )


def named_inside(key: str, name: str) -> Entry:
    return Entry(
        key,
        lambda step: {name: moments(step), "n": "text"},
        lambda _: {"n": "text"},
        f"{key}.{name}",
    )


def average_inside(key: str, name: str) -> Entry:
    return Entry(
        key,
        lambda step: {name: {"w": torch.full((3,), float(step))}, "decay": 0.9},
        lambda _: {"decay": 0.9},
        f"{key}.{name}",
    )


def kept(key: str, make: Callable[[int], Any]) -> Entry:
    return Entry(key, make, make, None)


def is_same(found: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        same_keys = isinstance(found, dict) and found.keys() == expected.keys()
        return same_keys and all(is_same(found[key], expected[key]) for key in expected)
    return type(found) is type(expected) and found == expected


AVERAGES = st.sampled_from(["ema", "model_ema", "shadow_params", "swa_state", "emaModel"])
ENTRIES = st.one_of(
    st.builds(whole, NEUTRAL, SHAPED),
    st.builds(listed, NEUTRAL, SHAPED),
    st.builds(inside, NEUTRAL, SHAPED),
    st.builds(whole, NAMED, st.sampled_from([moments, adam])),
    st.builds(named_inside, NEUTRAL, NAMED),
    st.builds(average_inside, NEUTRAL, AVERAGES),
    st.builds(whole, AVERAGES, st.just(lambda step: {"w": torch.full((3,), float(step))})),
    st.builds(kept, NEUTRAL, st.sampled_from([lambda step: step, lambda _: SETTINGS, str])),
)
LEVELS = st.lists(
    st.lists(ENTRIES, max_size=4, unique_by=lambda entry: entry.key), min_size=1, max_size=3
)
# Names that say training, of tensors that are the model's.
TENSORS = st.dictionaries(
    st.sampled_from(["optimizer.weight", "state.rng", "ema.bias", "rng_state", "state", "opt"]),
    st.tuples(st.lists(st.integers(0, 3), max_size=2).map(tuple), st.sampled_from(AVERAGED + KEPT)),
    max_size=4,
)
WAY = st.sampled_from(["checkpoint", "inner", "a"])
WRAPPER = st.sampled_from(["model", "state_dict", "model_state_dict", "module"])


@given(levels=LEVELS, tensors=TENSORS, way=st.tuples(WAY, WAY), wrapper=WRAPPER)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_only_the_model_is_averaged_and_only_what_may_goes_along(
    tmp_path_factory: pytest.TempPathFactory,
    levels: list[list[Entry]],
    tensors: dict[str, Any],
    way: tuple[str, str],
    wrapper: str,
) -> None:
    directory = tmp_path_factory.mktemp("checkpoint")
    keys = [*way[: len(levels) - 1], wrapper]
    models = [
        {
            **{
                name: random_tensor(10 * step + place, shape, dtype)
                for place, (name, (shape, dtype)) in enumerate(tensors.items())
            },
            "marker": torch.full((4,), float(step)),  # no two files are copies
        }
        for step in range(3)
    ]
    for step, model in enumerate(models):
        content: Any = model
        for key, entries in zip(reversed(keys), reversed(levels), strict=True):
            # The state of an optimizer says that it is a checkpoint, not a part of a model.
            content = {"optimizer_states": [adam(step)], key: content} | {
                entry.key: entry.make(step) for entry in entries
            }
        torch.save(content, directory / f"step_{step}.pt")

    provenance = run_average(AverageRequest(directory=directory))

    assert isinstance(provenance, Provenance)
    expected: Any = {
        name: mean([model[name] for model in models]) if newest.dtype in AVERAGED else newest
        for name, newest in models[-1].items()
    }
    dropped = []
    prefixes = [".".join([*keys[:depth], ""]) if depth else "" for depth in range(len(keys))]
    for key, prefix, entries in reversed(list(zip(keys, prefixes, levels, strict=True))):
        expected = {key: expected} | {
            entry.key: entry.left(2) for entry in entries if entry.left is not None
        }
        dropped += [prefix + entry.gone for entry in entries if entry.gone is not None]
        dropped.append(prefix + "optimizer_states")
    found = torch.load(directory / "averaged_model.pt", weights_only=True)
    assert is_same(found, expected)
    assert sorted(provenance.dropped) == sorted(dropped)
