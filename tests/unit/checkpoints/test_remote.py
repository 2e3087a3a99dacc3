"""Object stores without a server: URLs, windows, parts, and what tells whole from half."""

import importlib
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.checkpoints.formats.catalog import describe
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.remote.address import RemoteAddress
from tracksided.checkpoints.remote.files import RemoteEntry, RemoteFiles
from tracksided.checkpoints.remote.source import Reading, RemoteDirectory
from tracksided.checkpoints.remote.upload import is_whole, part_bytes, provenance_path
from tracksided.checkpoints.remote.windows import READ_AHEAD_BYTES, SMALL_BYTES, Windows
from tracksided.errors import SettingsError


class MemoryFiles(RemoteFiles):
    """One object in memory, which notes what is fetched."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fetched: list[tuple[int, int]] = []
        self._errors = (OSError,)
        self._unreachable = ()

    def fetch(self, path: str, start: int, stop: int) -> Future[bytes]:
        del path
        self.fetched.append((start, stop))
        future: Future[bytes] = Future()
        future.set_result(self.content[start:stop])
        return future


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a/b/", RemoteAddress("s3", "bucket/a/b")),
        ("gs://bucket", RemoteAddress("gs", "bucket")),
        ("./checkpoints", None),
        ("/data/run", None),
    ],
)
def test_urls_are_told_from_paths(text: str, expected: RemoteAddress | None) -> None:
    assert RemoteAddress.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x", r"ftp:// is not read here; use s3://, gs://"),
        ("s3:///", "names no bucket"),
        ("s3://bucket/r?versionId=1", r"asks for a version.*; give s3://BUCKET/PREFIX alone"),
        ("gs://bucket/r#1700000000", r"asks for a version.*; give gs://BUCKET/PREFIX alone"),
    ],
)
def test_other_urls_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RemoteAddress.parse(text)


@pytest.mark.parametrize(("scheme", "module"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_names_its_install_line(
    monkeypatch: pytest.MonkeyPatch, scheme: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    registered = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(registered, scheme, raising=False)  # by another test

    with pytest.raises(SettingsError, match=rf"{module}.*\n.*trackside\[daemon,{scheme}\]"):
        RemoteFiles(scheme)


@given(
    content=st.binary(min_size=1, max_size=300),
    reads=st.lists(st.tuples(st.integers(0, 310), st.integers(0, 50)), max_size=20),
    window_bytes=st.integers(1, 40),
    count=st.integers(1, 5),
    ahead=st.booleans(),
)
def test_windows_give_what_lies_there(
    *, content: bytes, reads: list[tuple[int, int]], window_bytes: int, count: int, ahead: bool
) -> None:
    windows = Windows(MemoryFiles(content), window_bytes, count, ahead=ahead)

    for offset, nbytes in reads:
        buffer = bytearray(nbytes)
        filled = windows.read_into(("b/key", len(content)), memoryview(buffer), offset)

        assert bytes(buffer[:filled]) == content[offset : offset + nbytes]
        assert len(windows._held) <= count


def test_a_stream_fetches_every_byte_once_and_one_window_ahead() -> None:
    files = MemoryFiles(bytes(range(100)))
    windows = Windows(files, 10, 4, ahead=True)

    windows.read_into(("b/key", 100), memoryview(bytearray(5)), 0)
    assert files.fetched == [(0, 10), (10, 20)]
    for offset in range(5, 100, 5):
        windows.read_into(("b/key", 100), memoryview(bytearray(5)), offset)

    assert files.fetched == [(start, start + 10) for start in range(0, 100, 10)]


@pytest.mark.parametrize("num_streams", [1, 5, 50, 120])
def test_windows_of_all_sources_together_are_bounded(num_streams: int) -> None:
    windows = Windows.for_streams(MemoryFiles(b""), num_streams)

    assert windows._count >= 2 * num_streams
    assert windows._count * windows._window_bytes <= READ_AHEAD_BYTES
    assert windows._window_bytes >= SMALL_BYTES


@pytest.mark.parametrize("nbytes", [0, 1, 70 << 30, 100 << 30, 5 << 40])
def test_parts_are_as_many_as_a_store_takes(nbytes: int) -> None:
    size = part_bytes(nbytes)

    assert -(-nbytes // size) <= 10_000
    assert size >= 5 << 20
    assert size % (256 << 10) == 0


def test_provenance_lies_beside_an_object_and_in_a_directory() -> None:
    assert (
        provenance_path("b/run/averaged_model.pt", is_directory=False)
        == "b/run/averaged_model.json"
    )
    assert provenance_path("b/run/averaged", is_directory=True) == "b/run/averaged/averaging.json"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([{"name": "a", "bytes": 3, "etag": "x"}], True),
        ([{"name": "a", "bytes": 3, "etag": "y"}], False),
        ([{"name": "a", "bytes": 4, "etag": "x"}], False),
        ([{"name": "gone", "bytes": 3, "etag": "x"}], False),
        ([], False),
        ([3], False),
        (None, False),
    ],
)
def test_an_average_is_whole_where_every_listed_object_is_there(
    listed: object, *, expected: bool
) -> None:
    entries = {"a": RemoteEntry("b/a", is_directory=False, nbytes=3, mtime_ns=0, etag="x")}

    assert is_whole({"objects": listed}, entries) is expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model_fsdp_0", "pytorch_model_fsdp_0: a directory in a checkpoint"),
        ("unet", "nor do directories in it, which are looked into in file systems only"),
    ],
)
def test_weights_in_a_directory_in_a_checkpoint_are_refused(name: str, reason: str) -> None:
    files = MemoryFiles(b"")
    entries = [
        RemoteEntry(f"bucket/step_1/{name}", is_directory=True, nbytes=0, mtime_ns=0, etag=""),
        RemoteEntry(
            "bucket/step_1/random_states_0.pkl", is_directory=False, nbytes=9, mtime_ns=0, etag="x"
        ),
    ]
    windows = Windows.for_small_reads(files)
    reading = Reading(files, windows, windows)
    directory = RemoteDirectory(reading, Path("bucket/step_1"), entries)

    with pytest.raises(SourceRefused, match=reason):
        describe(directory)
