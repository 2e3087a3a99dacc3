"""A store that refuses, changes or is empty: the previous average stays, and the cause is named."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from s3_checkpoints import (
    ADDRESS,
    BUCKET,
    PATTERNS,
    PREFIX,
    average,
    content,
    keys,
    pending_uploads,
    save_files,
    save_safetensors,
    save_shards,
    upload,
)
from s3_server import Environ, S3Server

from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.naming import temporary_name
from tracksided.checkpoints.remote import files
from tracksided.checkpoints.remote.address import RemoteAddress
from tracksided.checkpoints.remote.store import open_remote_store
from tracksided.checkpoints.remote.windows import SMALL_BYTES
from tracksided.errors import CheckpointError, OutputError

pytestmark = pytest.mark.integration

DEADLINE_S = 120.0
MEDIUM = 2_000_000  # of float32: some windows
LARGE = 3_000_000  # more than one part


@pytest.mark.parametrize("save", [save_files, save_safetensors])
@pytest.mark.parametrize("fault", ["part", "complete"])
def test_an_upload_that_fails_leaves_the_previous_average(
    server: S3Server, bucket: Any, tmp_path: Path, save: Callable[[Path], None], fault: str
) -> None:
    save(tmp_path)
    upload(bucket, tmp_path)
    average()
    before = {name: content(bucket, name.removeprefix(PREFIX)) for name in keys(bucket)}

    def refuse(environ: Environ) -> tuple[int, str] | None:
        method, query = environ["REQUEST_METHOD"], environ["QUERY_STRING"]
        is_part = method == "PUT" and "partNumber" in query
        is_end = method == "POST" and query.startswith("uploadId")
        return (403, "AccessDenied") if (is_part if fault == "part" else is_end) else None

    server.hook = refuse
    with pytest.raises(OutputError, match=r"access denied.*the previous average stays"):
        average(count=2)
    server.hook = lambda _: None

    assert {name: content(bucket, name.removeprefix(PREFIX)) for name in keys(bucket)} == before
    assert pending_uploads(bucket) == []
    store = open_remote_store(ADDRESS, 1)
    (name,) = [name for name in before if "averaged" in name and not name.endswith(".json")]
    assert store.bytes_of(name.removeprefix(PREFIX)) == len(before[name])


def test_a_half_made_directory_can_be_told_from_a_whole_one(
    server: S3Server, bucket: Any, tmp_path: Path
) -> None:
    """The store takes the first shard and refuses the second: only then is it mixed."""
    save_shards(tmp_path)
    upload(bucket, tmp_path)
    average()
    assert open_remote_store(ADDRESS, 1).bytes_of("averaged") is not None
    ends: list[str] = []

    def refuse_second(environ: Environ) -> tuple[int, str] | None:
        if environ["REQUEST_METHOD"] == "POST" and environ["QUERY_STRING"].startswith("uploadId"):
            ends.append(environ["PATH_INFO"])
            return (403, "AccessDenied") if len(ends) > 1 else None
        return None

    server.hook = refuse_second
    with pytest.raises(OutputError, match=r"half made: 1 of its files .*access denied"):
        average(count=2)
    server.hook = lambda _: None

    assert open_remote_store(ADDRESS, 1).bytes_of("averaged") is None
    assert pending_uploads(bucket) == []
    average(count=2)
    assert open_remote_store(ADDRESS, 1).bytes_of("averaged") is not None


def test_a_foreign_directory_of_the_output_name_is_left_alone(bucket: Any, tmp_path: Path) -> None:
    save_shards(tmp_path)
    upload(bucket, tmp_path)
    bucket.put_object(Bucket=BUCKET, Key=PREFIX + "averaged/thesis.tex", Body=b"years of work")

    with pytest.raises(OutputError, match="exists and is no average of trackside"):
        average()

    assert content(bucket, "averaged/thesis.tex") == b"years of work"


@pytest.mark.parametrize("change", ["delete", "overwrite"])
def test_an_object_that_goes_or_changes_while_it_is_read_is_replaced(
    server: S3Server, bucket: Any, tmp_path: Path, change: str
) -> None:
    save_safetensors(tmp_path, MEDIUM)
    upload(bucket, tmp_path)
    key = PREFIX + "step_2.safetensors"
    seen: list[str] = []

    def rotate(environ: Environ) -> None:
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(key):
            seen.append(environ.get("HTTP_RANGE", ""))
            if len(seen) == 5:
                if change == "delete":
                    bucket.delete_object(Bucket=BUCKET, Key=key)
                else:
                    path = tmp_path / "step_2.safetensors"
                    bucket.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes()[::-1])

    server.hook = rotate
    provenance = average()

    assert [source.name for source in provenance.sources] == [
        "step_1.safetensors",
        "step_3.safetensors",
    ]
    reasons = {entry.name: entry.reason for entry in provenance.skipped}
    expected = "was deleted" if change == "delete" else "changed while it was"
    assert reasons["step_2.safetensors"].startswith((expected, "NaN or infinity"))
    assert pending_uploads(bucket) == []


def is_window(environ: Environ) -> bool:
    first, _, last = environ.get("HTTP_RANGE", "").removeprefix("bytes=").partition("-")
    return bool(last) and int(last) - int(first) > SMALL_BYTES


def is_part(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and "partNumber" in environ["QUERY_STRING"]


@pytest.mark.parametrize("is_silent_at", [is_window, is_part])
def test_a_signal_ends_it_while_the_store_is_silent(
    server: S3Server, bucket: Any, tmp_path: Path, is_silent_at: Callable[[Environ], bool]
) -> None:
    save_safetensors(tmp_path, size=LARGE)
    upload(bucket, tmp_path)
    before = keys(bucket)
    attentive = ("env", "--default-signal=TERM")  # a script's background may ignore it
    command = [*attentive, sys.executable, "-m", "tracksided", "average", str(ADDRESS)]
    is_reached, is_over = threading.Event(), threading.Event()

    def be_silent(environ: Environ) -> tuple[int, str] | None:
        if not is_silent_at(environ):
            return None
        is_reached.set()
        is_over.wait(DEADLINE_S)
        return (503, "SlowDown")

    server.hook = be_silent
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert is_reached.wait(DEADLINE_S)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        is_over.set()
        server.hook = lambda _: None

    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert keys(bucket) == before
    assert pending_uploads(bucket) == []


@pytest.mark.parametrize(
    ("is_silent", "message"),
    [(False, "Connection was closed before"), (True, "no answer in 2 s")],
)
def test_a_store_that_is_lost_ends_it_and_no_older_checkpoint_is_tried(
    server: S3Server,
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_silent: bool,
    message: str,
) -> None:
    save_files(tmp_path, size=MEDIUM)
    upload(bucket, tmp_path)
    monkeypatch.setattr(files, "PATIENCE_S", 2.0)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    is_over = threading.Event()
    asked: set[str] = set()

    def be_lost(environ: Environ) -> tuple[int, str] | None:
        if not is_window(environ):
            return None
        asked.add(environ["PATH_INFO"].rpartition("/")[2])
        if is_silent:
            is_over.wait(DEADLINE_S)
        else:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return (503, "SlowDown")

    server.hook = be_lost
    with pytest.raises(CheckpointError, match=rf"step_[23]\.pt: cannot be read: {message}") as lost:
        average(count=2)
    is_over.set()
    server.hook = lambda _: None

    assert not isinstance(lost.value, TooFewCheckpoints)
    assert asked <= {"step_2.pt", "step_3.pt"}
    assert keys(bucket) == [f"{PREFIX}step_{step}.pt" for step in (1, 2, 3)]


def test_a_process_killed_while_it_uploads_leaves_the_previous_average(
    server: S3Server, bucket: Any, tmp_path: Path
) -> None:
    save_files(tmp_path)
    upload(bucket, tmp_path)
    average()
    before = {name: content(bucket, name.removeprefix(PREFIX)) for name in keys(bucket)}
    command = [sys.executable, "-m", "tracksided", "average", str(ADDRESS), "--num-checkpoints=2"]
    environment = os.environ | {"TMPDIR": tempfile.gettempdir()}
    running: list[subprocess.Popen[bytes]] = []

    def kill(environ: Environ) -> tuple[int, str] | None:
        if "partNumber" not in environ["QUERY_STRING"]:
            return None
        running[0].send_signal(signal.SIGKILL)
        return (503, "SlowDown")

    server.hook = kill
    running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    _, errors = running[0].communicate(timeout=DEADLINE_S)
    server.hook = lambda _: None

    assert running[0].returncode == -signal.SIGKILL, errors
    assert {name: content(bucket, name.removeprefix(PREFIX)) for name in keys(bucket)} == before
    assert len(list(Path(tempfile.gettempdir()).iterdir())) == 1
    other = Path(tempfile.gettempdir()) / temporary_name("averaged")
    other.touch()
    average(count=2)  # and sweeps the spool of the killed one
    assert list(Path(tempfile.gettempdir()).iterdir()) == [other]
    other.unlink()


def test_a_full_spool_names_the_place(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_files(tmp_path)
    upload(bucket, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(OutputError, match=r"No space left on device.*set TMPDIR"):
        average()

    assert not [name for name in keys(bucket) if "averaged" in name]


def test_too_few_checkpoints_are_named(bucket: Any, tmp_path: Path) -> None:
    save_files(tmp_path)
    upload(bucket, tmp_path)
    for step in (1, 2):
        bucket.put_object(Bucket=BUCKET, Key=f"{PREFIX}step_{step}.pt", Body=b"PK\x03\x04half")

    with pytest.raises(TooFewCheckpoints, match=r"s3://bucket/runs/one: 1 usable.*8 bytes are no"):
        average()


@pytest.mark.parametrize("path", [f"{BUCKET}/empty", "no-such-bucket/runs"])
@pytest.mark.usefixtures("bucket")
def test_nothing_there_is_said(path: str) -> None:
    request = AverageRequest(directory=RemoteAddress("s3", path), patterns=PATTERNS)

    with pytest.raises(CheckpointError, match=f"s3://{path}: .*does not exist, or is empty"):
        run_average(request)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
@pytest.mark.usefixtures("bucket")
def test_refused_credentials_are_named_with_the_mend(server: S3Server, code: str) -> None:
    server.hook = lambda _: (403, code)

    with pytest.raises(CheckpointError, match=r"access denied: .*; check AWS_PROFILE"):
        average()
    server.hook = lambda _: None


@pytest.mark.usefixtures("bucket")
def test_missing_credentials_are_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    with pytest.raises(CheckpointError, match=r"credentials.*; check AWS_PROFILE"):
        average()
    monkeypatch.undo()
