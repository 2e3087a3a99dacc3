"""`trackside average s3://...` gives what a disk gives, by ranges, in parts, and cleans up."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from s3_server import S3Server
from torch.distributed import checkpoint

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.remote.store import open_remote_store
from tracksided.errors import OutputError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning"),
]

LARGE = 9_000_000  # of float32: more than one chunk of the kernel, and some parts


def save_distributed(out: Path) -> None:
    for step in (1, 2, 3):
        state = {"w": torch.linspace(0, step, 500), "v": torch.full((3, 4), float(step)).half()}
        moments = {"w": torch.zeros(500)}
        checkpoint.save(
            {"model": state, "optim": moments, "step": step},
            checkpoint_id=out / f"step_{step}",
            no_dist=True,
        )


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


def test_an_average_with_fewer_files_removes_those_of_the_last(bucket: Any, tmp_path: Path) -> None:
    save_shards(tmp_path)
    (tmp_path / "checkpoint-3" / "vocab.txt").write_text("of the third alone")
    upload(bucket, tmp_path)
    average()
    assert PREFIX + "averaged/vocab.txt" in keys(bucket)
    bucket.delete_object(Bucket=BUCKET, Key=PREFIX + "checkpoint-3/vocab.txt")

    average()

    assert PREFIX + "averaged/vocab.txt" not in keys(bucket)
    assert PREFIX + "averaged/config.json" in keys(bucket)


def test_objects_of_others_stay_beside_those_of_the_average(bucket: Any, tmp_path: Path) -> None:
    save_shards(tmp_path)
    upload(bucket, tmp_path)
    average()
    for name in ("notes.txt", "eval/scores.json", "vocab.txt"):
        bucket.put_object(Bucket=BUCKET, Key=f"{PREFIX}averaged/{name}", Body=b"mine")
    assert open_remote_store(ADDRESS, 1).bytes_of("averaged") == described_bytes(bucket)

    average()

    assert content(bucket, "averaged/notes.txt") == b"mine"
    assert content(bucket, "averaged/eval/scores.json") == b"mine"
    bucket.put_object(Bucket=BUCKET, Key=PREFIX + "checkpoint-3/vocab.txt", Body=b"of the model")
    before = {name: content(bucket, name.removeprefix(PREFIX)) for name in keys(bucket)}
    with pytest.raises(OutputError, match=r"averaged/vocab\.txt: exists, and no average wrote it"):
        average()
    assert {name: content(bucket, name.removeprefix(PREFIX)) for name in keys(bucket)} == before


def described_bytes(bucket: Any) -> int:
    described = json.loads(content(bucket, "averaged/averaging.json"))
    return int(described["output_bytes"])


def test_the_command_speaks_of_urls(bucket: Any, tmp_path: Path) -> None:
    save_files(tmp_path)
    upload(bucket, tmp_path)
    command = [sys.executable, "-m", "tracksided", "average", str(ADDRESS)]

    done = subprocess.run(command, capture_output=True, check=False, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert "into s3://bucket/runs/one/averaged_model.pt" in done.stdout
