"""`trackside average s3://...` against a server of the S3 protocol on loopback."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import s3fs
import torch
from botocore.config import Config
from s3_server import Environ, S3Server
from safetensors.torch import save_file
from torch.distributed import checkpoint

from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.remote.address import RemoteAddress
from tracksided.checkpoints.remote.store import open_remote_store
from tracksided.errors import CheckpointError, OutputError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning"),
]

DEADLINE_S = 120.0
BUCKET = "bucket"
ADDRESS = RemoteAddress("s3", f"{BUCKET}/runs/one")
PREFIX = "runs/one/"
PATTERNS = ("checkpoint-*/", "*.pt", "*.safetensors", "*/")
LARGE = 9_000_000  # of float32: more than one chunk of the kernel, and some parts
MEDIUM = 2_000_000  # of float32: some windows


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    started = S3Server()
    s3fs.S3FileSystem.clear_instance_cache()  # of the server before
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "spools").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spools"))
    started.start()
    yield started
    started.stop()
    assert list((tmp_path / "spools").iterdir()) == []


@pytest.fixture
def bucket(server: S3Server) -> Iterator[Any]:
    """A client of its own, with a new bucket."""
    client = boto3.client("s3", endpoint_url=server.url, config=Config(retries={"max_attempts": 1}))
    client.create_bucket(Bucket=BUCKET)
    yield client
    for name in keys(client):
        client.delete_object(Bucket=BUCKET, Key=name)
    client.close()


def keys(bucket: Any) -> list[str]:
    listed = bucket.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return [entry["Key"] for entry in listed]


def content(bucket: Any, name: str) -> bytes:
    body: bytes = bucket.get_object(Bucket=BUCKET, Key=PREFIX + name)["Body"].read()
    return body


def pending_uploads(bucket: Any) -> list[str]:
    listed = bucket.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [entry["Key"] for entry in listed]


def upload(bucket: Any, directory: Path) -> None:
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        bucket.upload_file(str(path), BUCKET, PREFIX + str(path.relative_to(directory)))


def save_files(out: Path, size: int = 1000) -> None:
    for step in (1, 2, 3):
        state = {"w": torch.linspace(0, step, size), "n": torch.tensor(step)}
        torch.save({"model": state, "optimizer": {"w": state["w"]}}, out / f"step_{step}.pt")


def save_safetensors(out: Path, size: int = 1000) -> None:
    for step in (1, 2, 3):
        state = {"w": torch.linspace(0, step, size), "ids": torch.arange(9) * step}
        save_file(state, out / f"step_{step}.safetensors")


def save_shards(out: Path) -> None:
    for step in (1, 2, 3):
        directory = out / f"checkpoint-{step}"
        directory.mkdir()
        files = {f"model-0000{n}-of-00002.safetensors": f"w{n}" for n in (1, 2)}
        for file, name in files.items():
            save_file({name: torch.linspace(0, step, 500)}, directory / file)
        index = {"weight_map": {name: file for file, name in files.items()}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        (directory / "config.json").write_text(json.dumps({"step": step}))
        (directory / "empty.txt").write_text("")
        torch.save({"m": torch.zeros(9)}, directory / "optimizer.pt")
        (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def save_distributed(out: Path) -> None:
    for step in (1, 2, 3):
        state = {"w": torch.linspace(0, step, 500), "v": torch.full((3, 4), float(step)).half()}
        moments = {"w": torch.zeros(500)}
        checkpoint.save(
            {"model": state, "optim": moments, "step": step},
            checkpoint_id=out / f"step_{step}",
            no_dist=True,
        )


def average(**options: Any) -> Any:
    return run_average(AverageRequest(directory=ADDRESS, patterns=PATTERNS, **options))


def local_average(directory: Path) -> dict[str, bytes]:
    """What the same checkpoints average to on a disk, without the provenance."""
    run_average(AverageRequest(directory=directory, patterns=PATTERNS))
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if str(path.relative_to(directory)).startswith("averaged")
        and path.is_file()
        and path.name not in {"averaged_model.json", "averaging.json"}
    }


@pytest.mark.parametrize(
    ("save", "json_name"),
    [
        (save_files, "averaged_model.json"),
        (save_safetensors, "averaged_model.json"),
        (save_shards, "averaged/averaging.json"),
        (save_distributed, "averaged/averaging.json"),
    ],
)
def test_the_average_is_that_of_the_same_checkpoints_on_a_disk(
    bucket: Any, tmp_path: Path, save: Callable[[Path], None], json_name: str
) -> None:
    local = tmp_path / "local"
    local.mkdir()
    save(local)
    upload(bucket, local)
    expected = local_average(local)
    known = json.loads((local / json_name).read_bytes())

    provenance = average()

    published = {name.removeprefix(PREFIX) for name in keys(bucket) if "averaged" in name}
    assert published == {*expected, json_name}
    assert {name: content(bucket, name) for name in expected} == expected
    written = json.loads(content(bucket, json_name))
    assert written["output_digest"] == known["output_digest"] == provenance.output_digest
    assert [source["step"] for source in written["sources"]] == [1, 2, 3]
    assert [s["digest"] for s in written["sources"]] == [s["digest"] for s in known["sources"]]
    assert written["dropped"] == known["dropped"]
    listed = {entry["name"]: (entry["bytes"], entry["etag"]) for entry in written["objects"]}
    for name in expected:
        head = bucket.head_object(Bucket=BUCKET, Key=PREFIX + name)
        found = (head["ContentLength"], head["ETag"].strip('"'))
        assert listed[name.removeprefix("averaged/")] == found
    assert pending_uploads(bucket) == []


def test_an_average_is_never_a_source_and_takes_the_place_of_the_last(
    bucket: Any, tmp_path: Path
) -> None:
    save_files(tmp_path)
    upload(bucket, tmp_path)
    average()
    torch.save({"model": {"w": torch.full((1000,), 9.0), "n": torch.tensor(9)}}, tmp_path / "9.pt")
    bucket.upload_file(str(tmp_path / "9.pt"), BUCKET, PREFIX + "step_9.pt")

    provenance = average(count=2)

    assert [source.name for source in provenance.sources] == ["step_3.pt", "step_9.pt"]
    (tmp_path / "out.pt").write_bytes(content(bucket, "averaged_model.pt"))
    found = torch.load(tmp_path / "out.pt", weights_only=True)["model"]["w"]
    mean = np.mean([np.linspace(0, 3, 1000, dtype=np.float32), np.full(1000, 9.0)], axis=0)
    assert torch.allclose(found, torch.from_numpy(mean.astype(np.float32)))


def test_large_objects_are_read_by_ranges_and_sent_in_parts(
    server: S3Server, bucket: Any, tmp_path: Path
) -> None:
    save_safetensors(tmp_path, LARGE)
    upload(bucket, tmp_path)
    server.requests.clear()

    average()

    ranges = [span for method, path, _, span in server.requests if method == "GET" and span]
    lengths = [int(s[6:].split("-")[1]) - int(s[6:].split("-")[0]) + 1 for s in ranges]
    assert max(lengths) <= 16 << 20 >> 3
    assert sum(lengths) < 3 * (4 * LARGE + (1 << 20))  # each byte once, and the headers
    parts = [query for method, _, query, _ in server.requests if "partNumber" in query]
    assert len(parts) == -(-4 * LARGE // (8 << 20))
    run_average(AverageRequest(directory=tmp_path, patterns=PATTERNS))
    expected = (tmp_path / "averaged_model.safetensors").read_bytes()
    assert content(bucket, "averaged_model.safetensors") == expected


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


def test_an_average_with_fewer_files_removes_those_of_the_last(bucket: Any, tmp_path: Path) -> None:
    save_shards(tmp_path)
    upload(bucket, tmp_path)
    average()
    bucket.put_object(Bucket=BUCKET, Key=PREFIX + "averaged/model-3.safetensors", Body=b"old")

    average()

    assert PREFIX + "averaged/model-3.safetensors" not in keys(bucket)
    assert PREFIX + "averaged/config.json" in keys(bucket)


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
    average(count=2)  # and sweeps the spool of the killed one
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_the_command_speaks_of_urls(bucket: Any, tmp_path: Path) -> None:
    save_files(tmp_path)
    upload(bucket, tmp_path)
    command = [sys.executable, "-m", "tracksided", "average", str(ADDRESS)]

    done = subprocess.run(command, capture_output=True, check=False, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert "into s3://bucket/runs/one/averaged_model.pt" in done.stdout
