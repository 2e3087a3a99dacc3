"""A server of the S3 protocol on loopback, its environment, and a bucket in it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
from botocore.config import Config
from s3_checkpoints import BUCKET, keys
from s3_server import S3Server


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
