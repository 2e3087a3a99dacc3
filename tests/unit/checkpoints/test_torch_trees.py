"""Any tree of tensors, however it lies in its storages: the average of `.pt` files and numpy."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_tensors import AVERAGED, KEPT, mean, random_tensor
from torch import nn

from tracksided.checkpoints.job import AverageRequest, run_average


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor


def view(tensor: torch.Tensor) -> torch.Tensor:
    padded = torch.cat([tensor.new_zeros(3), tensor.reshape(-1), tensor.new_zeros(2)])
    return padded[3 : 3 + tensor.numel()].view(tensor.shape)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0]


def expanded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.unsqueeze(0).expand(3, *tensor.shape)


def overlapping(tensor: torch.Tensor) -> torch.Tensor:
    """Windows of two, each of which shares an element with the next."""
    flat = torch.cat([tensor.reshape(-1), tensor.new_zeros(2)])
    return flat.as_strided((flat.numel() - 1, 2), (1, 1))


def parameter(tensor: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(tensor) if tensor.is_floating_point() else tensor


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


# How a tensor lies in its storage; tied and fused share theirs with other names.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": plain,
    "transposed": transposed,
    "view": view,
    "strided": strided,
    "expanded": expanded,
    "overlapping": overlapping,
    "parameter": parameter,
    "tied": plain,
    "fused": plain,
}
TIED = "-and-tied"  # longer than any random name
SPECS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
        lambda name: name != "marker"
    ),
    st.tuples(
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
        st.sampled_from(AVERAGED + KEPT),
        st.sampled_from(sorted(LAYOUTS)),
    ),
    min_size=1,
    max_size=6,
)


@given(
    specs=SPECS,
    count=st.integers(2, 4),
    wrapper=st.sampled_from([None, "model", "state_dict"]),
    is_nested=st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_of_tensors_averages_like_numpy(
    tmp_path_factory: pytest.TempPathFactory,
    specs: Any,
    count: int,
    wrapper: str | None,
    *,
    is_nested: bool,
) -> None:
    directory = tmp_path_factory.mktemp("tree")
    states = []
    for seed in range(count):
        state: dict[str, torch.Tensor] = OrderedDict()
        for index, (name, (shape, dtype, layout)) in enumerate(specs.items()):
            tensor = random_tensor(100 * seed + index, shape, dtype)
            state[name] = LAYOUTS[layout](tensor)
            if layout == "tied":
                state[name + TIED] = state[name]
            elif layout == "fused" and shape and shape[0] > 1:
                # Parts of one tensor under names of their own, and a window over both.
                whole = state.pop(name)
                state[name + "/first"], state[name + "/rest"] = whole[:1], whole[1:]
                state[name + "/last two"] = whole[-2:]
        states.append(state)
        extra = {"marker": torch.full((1,), float(seed))}  # no two files are copies
        content = {"part": {**state}, **extra} if is_nested else {**state, **extra}
        saved = content if wrapper is None else {wrapper: content, "optimizer": {"m": extra}}
        torch.save(saved, directory / f"step_{seed}.pt")

    run_average(AverageRequest(directory=directory))

    averaged = torch.load(directory / "averaged_model.pt", weights_only=True)
    averaged = averaged if wrapper is None else averaged[wrapper]
    averaged = {**averaged.pop("part"), **averaged} if is_nested else averaged
    assert list(averaged) == [*states[0], "marker"]
    for name, newest in states[-1].items():
        found = averaged[name]
        dtype = newest.dtype
        rounded = mean([state[name].detach() for state in states]) if dtype in AVERAGED else newest
        assert found.dtype == dtype
        assert found.stride() == newest.stride()
        assert isinstance(found, nn.Parameter) == isinstance(newest, nn.Parameter)
        assert torch.equal(found, rounded)
        if name.endswith(TIED):
            tied_to = averaged[name.removesuffix(TIED)]
            assert tied_to.data_ptr() == found.data_ptr()
