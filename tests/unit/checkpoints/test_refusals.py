"""Errors get the name of the file that they are about once, from whoever knows it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tracksided.checkpoints.formats import catalog
from tracksided.checkpoints.formats.base import Checkpoint, OutputLayout, Patch
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.provenance import Skipped
from tracksided.checkpoints.refusals import Refusable, SourceRefused, refused_as
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.source_window import SourceWindow
from tracksided.errors import CheckpointRefused, OutputError


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Refusable]]:
    """Yield what gives one kind of source of the checkpoint ``step_1``."""
    directory = tmp_path / "step_1"
    directory.mkdir()
    (directory / "model.bin").write_bytes(bytes(10))
    with closing(SourceDirectory(directory)) as whole:
        part = whole.open("model.bin")
        kinds = {"directory": whole, "part": part, "window": SourceWindow(part, 2, 3, "'key'")}
        yield kinds.__getitem__


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("directory", "is torn"),
        ("part", "model.bin: is torn"),
        ("window", "model.bin: 'key': is torn"),
    ],
)
def test_what_has_no_name_gets_that_of_the_source(
    opened: Callable[[str], Refusable], kind: str, reason: str, tmp_path: Path
) -> None:
    cause = CheckpointRefused("is torn")

    with pytest.raises(SourceRefused) as refused, refused_as(opened(kind)):
        raise cause

    assert refused.value.path == tmp_path / "step_1"
    assert refused.value.reason == reason
    assert str(refused.value) == f"step_1: {reason}"
    assert refused.value.__cause__ is cause


def test_a_text_that_begins_with_the_name_is_no_name(
    opened: Callable[[str], Refusable],
) -> None:
    with pytest.raises(SourceRefused) as refused, refused_as(opened("directory")):
        raise CheckpointRefused("step_1: a key of the state dict, has no storage")

    assert refused.value.reason == "step_1: a key of the state dict, has no storage"


@pytest.mark.parametrize(
    "error", [SourceRefused(Path("step_2.pt"), "is torn"), OutputError("no room")]
)
def test_what_has_a_name_already_stays_as_it_is(
    opened: Callable[[str], Refusable], error: Exception
) -> None:
    with pytest.raises(type(error)) as raised, refused_as(opened("directory")):
        raise error

    assert raised.value is error


def test_a_file_that_is_the_checkpoint_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "step_1.pt"
    path.write_bytes(b"")

    with (
        closing(SourceFile(path)) as source,
        pytest.raises(SourceRefused) as refused,
        refused_as(source),
    ):
        raise CheckpointRefused("empty")

    assert str(refused.value) == "step_1.pt: empty"
    assert refused.value.reason == "empty"


class Terse:
    """A format that refuses everything, and names nothing."""

    name = "terse"
    suffixes = (".terse",)

    def describe(self, source: SourceFile) -> Checkpoint:
        raise CheckpointRefused(f"is torn after {source.nbytes} bytes")

    def layout(self, template: Checkpoint) -> OutputLayout:
        raise NotImplementedError

    def seal(self, template: Checkpoint, crcs: Mapping[str, int]) -> tuple[Patch, ...]:
        raise NotImplementedError

    def metrics(self, checkpoint: Checkpoint) -> Mapping[str, float]:
        raise CheckpointRefused(f"its scores are torn at step {checkpoint.step}")


@pytest.fixture
def terse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "FILE_FORMATS", (Terse(),))


@pytest.mark.usefixtures("terse")
def test_a_format_that_names_no_file_costs_the_checkpoint_its_place(tmp_path: Path) -> None:
    (tmp_path / "step_1.terse").write_bytes(bytes(7))

    with pytest.raises(TooFewCheckpoints) as caught:
        run_average(AverageRequest(directory=tmp_path, patterns=("*.terse",)))

    assert caught.value.skipped == (Skipped("step_1.terse", "is torn after 7 bytes"),)


@pytest.mark.usefixtures("terse")
def test_scores_that_a_format_refuses_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "step_1.terse"
    path.write_bytes(b"")
    with closing(SourceFile(path)) as source:
        checkpoint = Checkpoint((source,), Terse.name, {}, {}, 5, None)

        with pytest.raises(SourceRefused) as refused:
            catalog.stated_metrics(checkpoint)

    assert (refused.value.path, refused.value.reason) == (path, "its scores are torn at step 5")
