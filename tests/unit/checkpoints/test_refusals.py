"""Errors get the name of the file that they are about once, from whoever knows it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tracksided.checkpoints.refusals import Refusable, SourceRefused, refused_as
from tracksided.checkpoints.source import SourceDirectory, SourceFile, SourceWindow
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
