import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.formats.safetensors import Safetensors
from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceFile
from tracksided.errors import CheckpointError


def save(directory: Path, *steps: int) -> list[dict[str, torch.Tensor]]:
    states = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        state = {
            "a": torch.randn(40, 3, generator=generator),
            "b": torch.randn(9, generator=generator).bfloat16(),
            "h": torch.randn(3, generator=generator).half(),
            "ids": torch.arange(4) + step,
            "none": torch.empty(0, 5),
            "scalar": torch.randn((), generator=generator).double(),
        }
        save_file(state, directory / f"step_{step}.safetensors", metadata={"format": "pt"})
        states.append(state)
    return states


def request(directory: Path) -> AverageRequest:
    return AverageRequest(directory=directory, patterns=("*.safetensors",))


def describe(path: Path) -> None:
    source = SourceFile(path)
    try:
        Safetensors().describe(source)
    finally:
        source.close()


def test_the_average_keeps_keys_dtypes_and_metadata(tmp_path: Path) -> None:
    states = save(tmp_path, 1, 2, 3)

    provenance = run_average(request(tmp_path))

    assert provenance is not None
    assert provenance.output == "averaged_model.safetensors"
    assert not any(source.verified for source in provenance.sources)
    averaged = load_file(tmp_path / "averaged_model.safetensors")
    assert averaged.keys() == states[0].keys()
    for name in ("a", "b", "h", "scalar"):
        mean = np.mean([state[name].double().numpy() for state in states], axis=0)
        assert torch.equal(
            averaged[name], torch.from_numpy(np.asarray(mean)).to(averaged[name].dtype)
        )
    assert torch.equal(averaged["ids"], states[-1]["ids"])
    assert averaged["none"].shape == (0, 5)
    with safe_open(tmp_path / "averaged_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_an_average_without_its_provenance_is_still_no_source(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    run_average(request(tmp_path))
    (tmp_path / "averaged_model.json").unlink()

    provenance = run_average(request(tmp_path))

    assert provenance is not None
    assert [source.step for source in provenance.sources] == [1, 2]


AVERAGED = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
KEPT = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint64)
TREES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda name: name not in {"__metadata__", "marker"}
    ),
    st.tuples(st.lists(st.integers(0, 4), max_size=4).map(tuple), st.sampled_from(AVERAGED + KEPT)),
    max_size=6,
)


@given(tree=TREES, count=st.integers(2, 4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_of_tensors_averages_like_numpy(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any], count: int
) -> None:
    directory = tmp_path_factory.mktemp("tree")
    states = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        state = {"marker": torch.tensor(float(seed))}  # no two files are copies
        for name, (shape, dtype) in tree.items():
            state[name] = (100 * torch.randn(shape, generator=generator)).abs().to(dtype)
        save_file(state, directory / f"step_{seed}.safetensors")
        states.append(state)

    run_average(request(directory))

    averaged = load_file(directory / "averaged_model.safetensors")
    assert averaged.keys() == states[-1].keys()
    for name, newest in states[-1].items():
        expected = newest
        if newest.dtype in AVERAGED:
            wide = torch.complex128 if newest.is_complex() else torch.float64
            mean = np.mean([state[name].to(wide).numpy() for state in states], axis=0)
            expected = torch.from_numpy(np.asarray(mean)).to(newest.dtype)
        assert averaged[name].dtype == newest.dtype
        assert torch.equal(averaged[name], expected)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    whole = (tmp_path / "step_1.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"

    for nbytes in range(0, len(whole), 7):
        cut.write_bytes(whole[:nbytes])
        with pytest.raises(SourceRefused, match=r"cut\.safetensors"):
            describe(cut)


def test_bytes_behind_the_tensors_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step_1.safetensors"
    path.write_bytes(path.read_bytes() + b"x")

    with pytest.raises(SourceRefused, match="announces"):
        describe(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, -4]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b"{}",
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))

    with pytest.raises(SourceRefused, match=r"evil\.safetensors"):
        describe(path)


def described(shape: str = "1", end: str = "4") -> str:
    return f'"w": {{"dtype": "F32", "shape": [{shape}], "data_offsets": [0, {end}]}}'


def with_step(step: str) -> str:
    return f'"__metadata__": {{"step": "{step}"}}, ' + described()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (described(shape="9" * 4000), "'w' has no sane shape"),
        (described(end="9" * 4000), "'w' has no sane data_offsets"),
        (described(shape="1," * 64 + "1"), "'w' has no sane shape"),
        (described(shape="1," * 4000 + "1"), "'w' is described by more than 4096 characters"),
        (with_step("9" * 5000), "larger than any step"),
        (with_step(str(1 << 62)), "larger than any step"),
        ('"__metadata__": {"a": {}}, ' + described(), "no text where one is expected"),
        ('"w": [[]]', "'w' is not described by an object"),
        ('"w": {"dtype": {}, "shape": [1], "data_offsets": [0, 4]}', "header is not sane"),
        (described() + "}", "something follows"),
        (described() + " " + described(), "no ',' where one is expected"),
        (described() + ", " + described(), "'w' stands twice"),
        ('"\\ud800": {}', "surrogates not allowed"),
    ],
)
def test_absurd_headers_are_refused_by_what_is_wrong(
    tmp_path: Path, members: str, reason: str
) -> None:
    path = tmp_path / "evil.safetensors"
    header = "{" + members + "}"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))

    with pytest.raises(SourceRefused, match=reason) as refused:
        describe(path)

    assert str(refused.value).startswith("evil.safetensors: ")
    assert len(str(refused.value)) < 400


def test_a_header_of_empty_lists_takes_no_more_memory_than_its_own_bytes(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    header = b'{"w": [' + b"[]," * 300_000 + b"[]]}"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))

    tracemalloc.start()
    with pytest.raises(SourceRefused):
        describe(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 5 * len(header)  # the lists themselves would take 64 bytes for three


def test_white_space_around_the_header_s_parts_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    header = b' {\n "__metadata__" : { } , \t' + described().encode() + b" } \r\n"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))

    describe(path)


def test_copies_count_once_although_the_format_has_no_checksums(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "step_3.safetensors").write_bytes((tmp_path / "step_2.safetensors").read_bytes())

    provenance = run_average(request(tmp_path))

    assert provenance is not None
    assert [source.name for source in provenance.sources] == [
        "step_1.safetensors",
        "step_3.safetensors",
    ]
    assert provenance.skipped[0].reason == "is a copy of step_3.safetensors"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2fnuz])
def test_float8_is_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    for step in (1, 2):
        tensor = torch.full((4,), float(step)).to(dtype)
        save_file({"w": tensor}, tmp_path / f"step_{step}.safetensors")

    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"'w' has dtype {name}, which cannot be averaged"):
        run_average(request(tmp_path))
    assert not (tmp_path / "averaged_model.safetensors").exists()


def test_the_step_may_stand_in_the_metadata(tmp_path: Path) -> None:
    for step, name in ((30, "a"), (7, "b")):
        tensors = {"w": torch.full((2,), float(step))}
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata={"step": str(step)})

    provenance = run_average(request(tmp_path))

    assert provenance is not None
    assert [source.step for source in provenance.sources] == [7, 30]
    described = json.loads((tmp_path / "averaged_model.json").read_text())
    assert described["step"] == 30
