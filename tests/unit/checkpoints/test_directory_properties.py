"""Random trees and random damage, for every kind of directory."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from debris import debris
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_tensors import AVERAGED, KEPT, mean, random_tensor
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint

from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.provenance import Provenance

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning")

StateDict = dict[str, torch.Tensor]
PERCENTS = range(100)


def as_stored(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "transposed":
        return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor
    if layout == "view":
        padded = torch.cat([tensor.new_zeros(3), tensor.reshape(-1), tensor.new_zeros(2)])
        return padded[3 : 3 + tensor.numel()].view(tensor.shape)
    if layout == "strided" and tensor.dim():
        return torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0]
    return tensor


def make_state(specs: Mapping[str, Any], seed: int) -> StateDict:
    state: StateDict = {"marker": torch.full((1,), float(seed))}  # no two are copies
    for index, (name, (shape, dtype, layout)) in enumerate(specs.items()):
        state[name] = as_stored(random_tensor(100 * seed + index, shape, dtype), layout)
        if layout == "tied":
            state[name + "!tied"] = state[name]
    return state


def save_single(directory: Path, state: StateDict) -> None:
    directory.mkdir()
    plain = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    save_file(plain, directory / "model.safetensors")


def save_shards(directory: Path, state: StateDict) -> None:
    directory.mkdir()
    weight_map = {}
    for number in range(3):
        shard = f"model-{number:05}-of-00003.safetensors"
        names = list(state)[number::3]
        if names:
            part = {name: state[name].contiguous().clone() for name in names}
            save_file(part, directory / shard)
            weight_map |= dict.fromkeys(names, shard)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index)


def save_bin(directory: Path, state: StateDict) -> None:
    directory.mkdir()
    torch.save(state, directory / "pytorch_model.bin")


def save_distributed(directory: Path, state: StateDict) -> None:
    moments = {name: {"exp_avg": tensor} for name, tensor in state.items()}
    content = {"model": state, "optim": {"state": moments}}
    checkpoint.save(content, checkpoint_id=directory, no_dist=True)


def load(directory: Path, like: StateDict) -> StateDict:
    if (directory / ".metadata").exists():
        model = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
        checkpoint.load({"model": model}, checkpoint_id=directory, no_dist=True)
        return model
    if (directory / "pytorch_model.bin").exists():
        state: StateDict = torch.load(directory / "pytorch_model.bin", weights_only=True)
        return state
    found: StateDict = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


def run(out: Path) -> Provenance | None:
    return run_average(AverageRequest(directory=out, patterns=("*/",)))


SAVERS = (save_single, save_shards, save_bin, save_distributed)
SPECS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    st.tuples(
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
        st.sampled_from(AVERAGED + KEPT),
        st.sampled_from(["plain", "transposed", "view", "strided", "tied"]),
    ),
    max_size=6,
)


@pytest.mark.parametrize("save", SAVERS)
@given(specs=SPECS, count=st.integers(2, 3))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_of_tensors_averages_like_numpy(
    tmp_path_factory: pytest.TempPathFactory,
    save: Callable[[Path, StateDict], None],
    specs: Mapping[str, Any],
    count: int,
) -> None:
    out = tmp_path_factory.mktemp("tree")
    states = [make_state(specs, seed) for seed in range(count)]
    for seed, state in enumerate(states):
        save(out / f"step_{seed}", state)

    run(out)

    found = load(out / "averaged", states[-1])
    assert found.keys() == states[-1].keys()
    for name, newest in states[-1].items():
        is_averaged = newest.dtype in AVERAGED
        expected = mean([state[name] for state in states]) if is_averaged else newest
        assert found[name].dtype == newest.dtype
        assert torch.equal(found[name], expected), name


def weights_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix != ".json")


SMALL = {"weight": ((4, 3), torch.float32, "plain"), "ids": ((2,), torch.int64, "plain")}


@pytest.fixture(params=SAVERS)
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Two checkpoints, and an average from before that must stay, with no debris around it."""
    for seed in (1, 2):
        request.param(tmp_path / f"step_{seed}", make_state(SMALL, seed))
    assert run(tmp_path) is not None
    before = {path.name: path.read_bytes() for path in (tmp_path / "averaged").iterdir()}
    yield tmp_path
    after = {path.name: path.read_bytes() for path in (tmp_path / "averaged").iterdir()}
    assert after == before
    assert debris(tmp_path) == []


def test_a_file_cut_at_every_percent_is_refused_by_name(pair: Path) -> None:
    for path in weights_of(pair / "step_2"):
        whole = path.read_bytes()
        for percent in PERCENTS:
            path.write_bytes(whole[: len(whole) * percent // 100])
            with pytest.raises(TooFewCheckpoints, match=f"step_2: .*{path.name}"):
                run(pair)
        path.write_bytes(whole)


def test_a_missing_file_is_refused_by_name(pair: Path) -> None:
    for path in sorted((pair / "step_2").iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(TooFewCheckpoints):
            run(pair)
        path.write_bytes(content)


def test_a_file_that_may_not_be_opened_is_refused(pair: Path) -> None:
    path = weights_of(pair / "step_2")[0]
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(TooFewCheckpoints, match="not a regular file"):
        run(pair)


@pytest.mark.parametrize("save", SAVERS)
def test_a_flipped_byte_is_refused_or_the_average_is_still_one(
    tmp_path: Path, save: Callable[[Path, StateDict], None]
) -> None:
    """Safetensors have no checksums: a damaged number is a number."""
    states = [make_state(SMALL, seed) for seed in (1, 2)]
    for seed, state in zip((1, 2), states, strict=True):
        save(tmp_path / f"step_{seed}", state)
    refused = 0
    for path in weights_of(tmp_path / "step_1"):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
            shutil.rmtree(tmp_path / "averaged", ignore_errors=True)
            try:
                run(tmp_path)
            except TooFewCheckpoints as error:
                assert "step_1: " in str(error)  # noqa: PT017 - one of two outcomes
                refused += 1
                assert not (tmp_path / "averaged").exists()
                continue
            found = load(tmp_path / "averaged", states[-1])
            if path.suffix in {".bin", ".distcp"}:
                assert torch.equal(found["weight"], mean([state["weight"] for state in states]))
        path.write_bytes(whole)
    assert refused > 10
