"""Checkpoints in a bucket of the S3 server, what is in it, and their average."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.remote.address import RemoteAddress

BUCKET = "bucket"
ADDRESS = RemoteAddress("s3", f"{BUCKET}/runs/one")
PREFIX = "runs/one/"
PATTERNS = ("checkpoint-*/", "*.pt", "*.safetensors", "*/")


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


def average(**options: Any) -> Any:
    return run_average(AverageRequest(directory=ADDRESS, patterns=PATTERNS, **options))
