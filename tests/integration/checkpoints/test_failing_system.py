"""Any system call may fail: the average that is there is then still the old one, and whole."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.publish import Publication
from tracksided.errors import OutputError, TracksidedError

pytestmark = pytest.mark.integration

PATTERNS = ("*.pt", "*.safetensors", "checkpoint-*/")
WRITING = ("pwrite", "posix_fallocate", "fsync", "fchmod", "replace", "rename", "mkdir")
STEPS = (1, 2, 3)


class Broken:
    """Makes the k-th of some system calls fail, or those after it too, as on a full disk."""

    def __init__(self, patch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
        self.fails_at = 0
        self.stays_broken = False
        self._count = 0
        self.failed: list[str] = []
        for name in names:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def begin(self, fails_at: int) -> None:
        """Count from the start again."""
        self.fails_at, self._count, self.failed = fails_at, 0, []

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **options: Any) -> Any:
            self._count += 1
            if self._count == self.fails_at or (self.stays_broken and self.failed):
                self.failed.append(name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **options)

        return attempt


def state(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"w": torch.randn(50, generator=generator), "n": torch.tensor(step)}


def save_torch(directory: Path, step: int) -> None:
    torch.save(state(step), directory / f"step_{step}.pt")


def save_safetensors(directory: Path, step: int) -> None:
    save_file(state(step), directory / f"step_{step}.safetensors")


def save_directory(directory: Path, step: int) -> None:
    inside = directory / f"checkpoint-{step}"
    inside.mkdir()
    save_file(state(step), inside / "model.safetensors")
    (inside / "config.json").write_text("{}")


def average(directory: Path, count: int) -> Provenance:
    provenance = run_average(
        AverageRequest(directory=directory, patterns=PATTERNS, count=count, num_threads=1)
    )
    assert provenance is not None
    return provenance


def outputs(directory: Path) -> dict[str, bytes]:
    """Everything but the checkpoints; what is hidden would be debris."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "step_" not in path.name and "checkpoint-" not in str(path)
    }


def weights(directory: Path) -> torch.Tensor:
    if (directory / "averaged_model.pt").exists():
        tensor: torch.Tensor = torch.load(directory / "averaged_model.pt", weights_only=True)["w"]
        return tensor
    inside = directory / "averaged" / "model.safetensors"
    return load_file(inside if inside.exists() else directory / "averaged_model.safetensors")["w"]


@pytest.fixture(params=[save_torch, save_safetensors, save_directory])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Three checkpoints, and an average of the newest two from before."""
    for step in STEPS:
        request.param(tmp_path, step)
    average(tmp_path, 2)
    yield tmp_path
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("stays_broken", [False, True])
def test_a_failure_to_write_at_any_moment_leaves_one_whole_average(
    site: Path, monkeypatch: pytest.MonkeyPatch, *, stays_broken: bool
) -> None:
    before = outputs(site)
    broken = Broken(monkeypatch, WRITING)
    broken.stays_broken = stays_broken
    failures = 0
    for fails_at in range(1, 200):
        broken.begin(fails_at)
        try:
            average(site, 3)
        except OutputError as error:
            failures += 1
            assert "No space left on device" in str(error)  # noqa: PT017 - one of two outcomes
            if outputs(site) == before:
                continue
            # The new one has its name: what was left is the second name or to sync both.
            assert broken.failed[0] in {"fsync", "replace"}
            assert_mean(weights(site), STEPS)
        else:
            break
        broken.begin(0)
        average(site, 2)
        before = outputs(site)  # seconds and time of making differ

    assert not broken.failed
    assert failures > 8
    assert_average_of(site, STEPS)


def assert_average_of(site: Path, steps: tuple[int, ...]) -> None:
    (path,) = [*site.glob("averaged*.json"), *site.glob("averaged/averaging.json")]
    described = json.loads(path.read_text())
    assert [source["step"] for source in described["sources"]] == list(steps)
    assert_mean(weights(site), steps)


def assert_mean(found: torch.Tensor, steps: tuple[int, ...]) -> None:
    mean = np.mean([state(step)["w"].double().numpy() for step in steps], axis=0)
    assert torch.equal(found, torch.from_numpy(mean).float())


def test_a_failure_to_read_at_any_moment_costs_a_source_or_nothing(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(monkeypatch, ("preadv",))
    outcomes = set()
    for fails_at in range(1, 500):
        before = outputs(site)
        broken.begin(fails_at)
        try:
            provenance = average(site, 3)
        except TracksidedError as error:
            outcomes.add("error")
            # Where the old one's provenance cannot be read, it is taken for somebody else's.
            message = str(error)
            assert "No space left on device" in message or "no average of trackside" in message
            assert outputs(site) == before
            continue
        if not broken.failed:
            break
        outcomes.add("skipped" if provenance.skipped else "kept")
        assert all("No space left" in entry.reason for entry in provenance.skipped)
        assert len(provenance.sources) + len(provenance.skipped) == 3
        assert_average_of(site, tuple(source.step or 0 for source in provenance.sources))

    assert not broken.failed
    assert {"error", "skipped"} <= outcomes
    assert_average_of(site, STEPS)


def test_short_reads_and_writes_are_gone_on_with(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.preadv, os.pwrite

    def short_read(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return read(descriptor, [buffers[0][:13]], offset)

    def short_write(descriptor: int, content: bytes, offset: int) -> int:
        return write(descriptor, content[:11], offset)

    monkeypatch.setattr(os, "preadv", short_read)
    monkeypatch.setattr(os, "pwrite", short_write)
    average(site, 3)

    assert_average_of(site, STEPS)


def test_two_averagings_at_once_leave_a_file_and_a_json_of_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 6):
        torch.save({"w": torch.full((8,), float(step * step))}, tmp_path / f"step_{step}.pt")
    uniform = threading.Thread(target=run_average, args=(AverageRequest(directory=tmp_path),))
    take_name = Publication.take_name

    def meet(self: Publication) -> None:
        if self.path.suffix == ".json" and uniform.ident is None:
            uniform.start()
            uniform.join(timeout=1.0)  # without turns it is through by then
        take_name(self)

    monkeypatch.setattr(Publication, "take_name", meet)
    run_average(AverageRequest(directory=tmp_path, method="wsm-1-sqrt"))
    uniform.join()

    described = json.loads((tmp_path / "averaged_model.json").read_text())
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)["w"]
    expected = sum(
        source["weight"] * source["step"] * source["step"] for source in described["sources"]
    )
    assert described["method"] == "uniform"
    assert averaged.tolist() == pytest.approx([expected] * 8)
