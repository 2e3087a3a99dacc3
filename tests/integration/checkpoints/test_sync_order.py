"""What is read back, and what has its name, is on disk: a power cut leaves one whole average."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saved_steps import save_directory, save_torch

from tracksided.checkpoints import renaming
from tracksided.checkpoints.job import AverageRequest, run_average

pytestmark = pytest.mark.integration

STEPS = (1, 2, 3)


class Course:
    """System calls of an averaging, in their order, each with the inode that it is about."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int]] = []
        for name in ("pwrite", "preadv", "fsync"):
            patch.setattr(os, name, self._noted(name, getattr(os, name)))
        for name in ("rename", "replace"):
            patch.setattr(os, name, self._noted("rename", getattr(os, name)))
        patch.setattr(renaming, "_rename", self._noted("rename", renaming._rename))

    def _noted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(about: int | Path, *args: Any) -> Any:
            self.calls.append((name, os.stat(about).st_ino))  # noqa: PTH116 - or a descriptor
            return call(about, *args)

        return act

    def moments(self, name: str, *paths: Path) -> list[int]:
        """Return when something was done to one of some files, which have their names now."""
        about = {path.stat().st_ino for path in paths}
        return [
            moment
            for moment, (found, inode) in enumerate(self.calls)
            if found == name and inode in about
        ]


Save = Callable[[Path, int], None]
Average = Callable[[Save], Course]


@pytest.fixture(params=["once", "again"])
def average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Average:
    """Averages checkpoints where there is no average, and where there is one."""

    def noted(save: Save) -> Course:
        for step in STEPS:
            save(tmp_path, step)
        wanted = AverageRequest(directory=tmp_path, patterns=("*.pt", "checkpoint-*/"))
        if request.param == "again":
            run_average(wanted)
        course = Course(monkeypatch)
        run_average(wanted)
        return course

    return noted


def test_an_average_is_on_disk_before_it_is_read_back(tmp_path: Path, average: Average) -> None:
    course = average(save_torch)

    file = tmp_path / "averaged_model.pt"
    written = course.moments("pwrite", file)
    read = course.moments("preadv", file)
    assert [moment for moment in course.moments("fsync", file) if written[-1] < moment < read[0]]


def test_a_file_is_on_disk_before_it_has_its_name_and_then_its_name_is(
    tmp_path: Path, average: Average
) -> None:
    course = average(save_torch)

    files = (tmp_path / "averaged_model.pt", tmp_path / "averaged_model.json")
    named = course.moments("rename", *files)
    assert len(named) == 2
    for file in files:
        assert course.moments("pwrite", file)[-1] < course.moments("fsync", file)[-1] < named[0]
    assert course.moments("fsync", tmp_path)[-1] > named[-1]


def test_a_directory_is_on_disk_before_it_has_its_name_and_then_its_name_is(
    tmp_path: Path, average: Average
) -> None:
    course = average(save_directory)

    output = tmp_path / "averaged"
    names = {"model.safetensors", "config.json", "averaging.json"}
    named = course.moments("rename", output)
    assert {path.name for path in output.iterdir()} == names
    for name in names:
        written = course.moments("pwrite", output / name)
        assert written[-1] < course.moments("fsync", output / name)[-1] < named[0]
    assert any(moment < named[0] for moment in course.moments("fsync", output))
    assert course.moments("fsync", tmp_path)[-1] > named[-1]
    weights = output / "model.safetensors"
    read = course.moments("preadv", weights)
    written = course.moments("pwrite", weights)
    assert [moment for moment in course.moments("fsync", weights) if written[-1] < moment < read[0]]
