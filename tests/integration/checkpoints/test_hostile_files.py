"""Files that mean harm, or were harmed: refused by name, nothing executed, nothing left behind."""

import json
import os
import pickle  # noqa: TID251 - makes what is refused
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tracksided.checkpoints import averaging, shares
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average

pytestmark = pytest.mark.integration

GIGABYTE = 1 << 30
HUGE = (1 << 62) - 1
PERCENTS = range(100)


def state(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"w": torch.randn(9, 5, generator=generator), "n": torch.tensor([step])}


def save(directory: Path, step: int, suffix: str) -> Path:
    path = directory / f"step_{step}{suffix}"
    if suffix == ".safetensors":
        save_file(state(step), path, metadata={"format": "pt"})
    else:
        torch.save(state(step), path)
    return path


def run(directory: Path) -> dict[str, str]:
    """Average, and return why what was skipped."""
    suffix = "*.safetensors" if list(directory.glob("*.safetensors")) else "*.pt"
    provenance = run_average(AverageRequest(directory=directory, patterns=(suffix,)))
    assert provenance is not None
    return {entry.name: entry.reason for entry in provenance.skipped}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Two sound checkpoints; whatever else comes, nothing is executed and no debris stays."""
    for step in (1, 2):
        save(tmp_path, step, ".pt")
    yield tmp_path
    assert not (tmp_path / "executed").exists()
    assert not list(tmp_path.glob(".*"))


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes], method: int) -> None:
    """Write a zip again with other bytes or compressed."""
    with zipfile.ZipFile(path) as archive:
        records = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry, body in records:
            archive.writestr(entry.filename, change(entry, body))


def compressed(path: Path) -> None:
    rewritten(path, lambda _, body: body, zipfile.ZIP_DEFLATED)


def bomb(path: Path) -> None:
    """A thousandth of what it unpacks to."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as record,
    ):
        for _ in range(100):
            record.write(bytes(1 << 20))


def with_pickle(pickled: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rewritten(
            path,
            lambda entry, body: pickled if entry.filename.endswith("data.pkl") else body,
            zipfile.ZIP_STORED,
        )

    return write


def many_records(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5000):
            archive.writestr(f"archive/data/{number}", b"")


def huge_sizes(path: Path) -> None:
    """Every size in the central directory says 4 GiB less one byte, without a zip64 field."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 20 : at + 28] = b"\xfe\xff\xff\xff" * 2
        at = content.find(b"PK\x01\x02", at + 1)
    path.write_bytes(content)


def laughs(depth: int) -> Any:
    """Shared tuples that would unfold to 2 ** depth."""
    node: Any = ("ha",)
    for _ in range(depth):
        node = (node, node)
    return node


def nested_laughs(path: Path) -> None:
    """The same in dicts of tensors, where names would unfold."""
    node: Any = {"w": torch.zeros(1)}
    for _ in range(64):
        node = {"a": node, "b": node}
    torch.save({"model": node}, path)


def as_text(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (compressed, "is compressed or encrypted"),
        (bomb, "is compressed or encrypted"),
        (many_records, "a zip file without data.pkl"),
        (huge_sizes, "overlaps another or passes the file's end"),
        (with_pickle(b"\x80\x02X\xff\xff\xff\x7fx."), "malformed near byte"),
        (with_pickle(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fx."), "malformed near byte"),
        (with_pickle(b"\x80\x02\x8b\xff\xff\xff\x7fx."), "an integer of 2147483647 bytes"),
        (with_pickle(b"\x80\x02j\xff\xff\xff\xff."), "malformed near byte"),
        (with_pickle(b"\x80\x02" + b"(" * 100_000 + b"."), "malformed near byte"),
        (with_pickle(b"cos\nsystem\n(S'touch executed'\ntR."), "has protocol 0 or 1 (opcode 0x53)"),
        (with_pickle(pickle.dumps(laughs(64), protocol=2)), "does not hold a dict but a tuple"),
        (nested_laughs, "keys differ from"),
        (as_text, "not a zip file"),
        (lambda path: os.truncate(path, 8 * GIGABYTE), "no zip directory at its end"),
    ],
)
def test_a_hostile_torch_file_is_refused_by_name(
    site: Path, harm: Callable[[Path], None], reason: str
) -> None:
    path = save(site, 0, ".pt")
    harm(path)

    reasons = run(site)

    assert reason in reasons["step_0.pt"]
    averaged = torch.load(site / "averaged_model.pt", weights_only=True)
    mean = (state(1)["w"].double().numpy() + state(2)["w"].double().numpy()) / 2
    assert torch.equal(averaged["w"], torch.from_numpy(mean).float())


def test_a_pickle_that_unfolds_without_end_beside_the_model_is_carried_along(site: Path) -> None:
    for path in site.glob("*.pt"):
        path.unlink()
    for step in (1, 2):
        torch.save({"model": state(step), "joke": laughs(64)}, site / f"step_{step}.pt")

    assert run(site) == {}

    joke = torch.load(site / "averaged_model.pt", weights_only=True)["joke"]
    depth = 0
    while joke != ("ha",):
        assert joke[0] is joke[1]
        joke, depth = joke[0], depth + 1
    assert depth == 64


def test_a_tensor_of_endless_shape_over_one_element_takes_no_memory(site: Path) -> None:
    for path in site.glob("*.pt"):
        path.unlink()
    for step in (1, 2):
        torch.save({"w": torch.tensor([float(step)]).expand(HUGE // 4)}, site / f"step_{step}.pt")

    assert run(site) == {}

    averaged = torch.load(site / "averaged_model.pt", weights_only=True)["w"]
    assert averaged.shape == (HUGE // 4,)
    assert averaged[HUGE // 8] == 1.5


def announces(nbytes: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(struct.pack("<Q", nbytes) + b"{}")


def header(content: object) -> Callable[[Path], None]:
    encoded = json.dumps(content).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(encoded)) + encoded)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (announces(2**64 - 1), "announces a header of 18446744073709551615 bytes"),
        (announces(10**9), "announces a header of 1000000000 bytes"),
        (header({"w": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4]}}), "another size"),
        (header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, HUGE]}}), "another size"),
        (
            header({"w": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}),
            "no sane data_offsets",
        ),
        (
            header({"w": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}}),
            "incomplete or truncated",
        ),
        (
            header({"w": {"dtype": "F32", "shape": [HUGE, 0], "data_offsets": [0, 0]}}),
            "keys differ",
        ),
        (lambda path: os.truncate(path, 8 * GIGABYTE), "incomplete or truncated"),
    ],
)
def test_hostile_safetensors_are_refused_by_name(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    for step in (1, 2):
        save(tmp_path, step, ".safetensors")
    harm(save(tmp_path, 0, ".safetensors"))

    assert reason in run(tmp_path)["step_0.safetensors"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_cut_at_every_percent_is_refused_and_the_average_stays(
    tmp_path: Path, suffix: str
) -> None:
    paths = [save(tmp_path, step, suffix) for step in (1, 2)]
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("averaged*")}
    whole = paths[1].read_bytes()

    for percent in PERCENTS:
        paths[1].write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(TooFewCheckpoints, match=f"skipped {paths[1].name}: "):
            run(tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.glob("averaged*")} == before
    assert not list(tmp_path.glob(".*"))


def test_a_flipped_byte_in_a_safetensors_header_is_refused_or_changes_no_tensor(
    tmp_path: Path,
) -> None:
    """What stands in the metadata and in white space says nothing about tensors."""
    for step in (1, 2):
        save(tmp_path, step, ".safetensors")
    path = save(tmp_path, 0, ".safetensors")
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    free = whole.find(b'{"format":"pt"}')
    assert run(tmp_path) == {}
    expected = load_file(tmp_path / "averaged_model.safetensors")

    passed = []
    for at in range(8 + length):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
        if not run(tmp_path):
            passed.append(at)
            averaged = load_file(tmp_path / "averaged_model.safetensors")
            assert all(torch.equal(averaged[name], expected[name]) for name in expected)

    in_metadata = [at for at in passed if free <= at < free + len(b'{"format":"pt"}')]
    assert in_metadata == passed
    assert len(passed) < 15


@pytest.mark.parametrize("change", ["deleted", "cut", "written over"])
def test_a_source_that_changes_while_it_is_read_costs_no_more_than_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(averaging, "BLOCK_BYTES", 64)
    monkeypatch.setattr(shares, "CHUNK_BYTES", 64)
    paths = [save(tmp_path, step, ".pt") for step in (1, 2, 3)]
    changed = False

    def at_half(done: int, total: int) -> None:
        nonlocal changed
        if changed or 2 * done < total:
            return
        changed = True
        if change == "deleted":
            paths[0].unlink()
        elif change == "cut":
            os.truncate(paths[0], 500)
        else:
            paths[0].write_bytes(bytes(paths[0].stat().st_size))

    provenance = run_average(AverageRequest(directory=tmp_path), at_half)

    assert changed
    assert provenance is not None
    used = [source.step for source in provenance.sources]
    assert used == ([1, 2, 3] if change == "deleted" else [2, 3])
    assert [entry.name for entry in provenance.skipped] == (
        [] if change == "deleted" else ["step_1.pt"]
    )
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    mean = sum(state(step or 0)["w"].double() for step in used) / len(used)
    assert torch.equal(averaged["w"], mean.float())
