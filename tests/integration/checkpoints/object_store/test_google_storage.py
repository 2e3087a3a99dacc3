"""`trackside average gs://...` against an emulator of Google's protocol on loopback."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (find_spec("gcsfs") and find_spec("gcp_storage_emulator")),
        reason="gcsfs and gcp-storage-emulator are not installed",
    ),
]

DEADLINE_S = 120.0
# A process of its own: gcsfs reads its environment when it is imported.
SCRIPT = """
import io, json, os, subprocess, sys
from gcp_storage_emulator.server import create_server

server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
server.start()
os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{server._api._httpd.server_port}"
import gcsfs, torch
from safetensors.torch import load, save

store = gcsfs.GCSFileSystem(token="anon")
for step in (1, 2, 3):
    file = io.BytesIO()
    torch.save({"w": torch.full((300_000,), 2.0**step)}, file)
    store.pipe_file(f"bucket/run/step_{step}.pt", file.getvalue())
    shard = save({"w": torch.full((3_000_000,), 2.0**step)})
    store.pipe_file(f"bucket/hf/checkpoint-{step}/model.safetensors", shard)
    store.pipe_file(f"bucket/hf/checkpoint-{step}/config.json", b"{}")
codes = [
    subprocess.run([sys.executable, "-m", "tracksided", "average", f"gs://bucket/{name}"]).returncode
    for name in ("run", "hf", "nothing")
]
file = io.BytesIO(store.cat_file("bucket/run/averaged_model.pt"))
shard = load(store.cat_file("bucket/hf/averaged/model.safetensors"))
written = json.loads(store.cat_file("bucket/hf/averaged/averaging.json"))
print(json.dumps({
    "codes": codes,
    "file": torch.load(file, weights_only=True)["w"].unique().tolist(),
    "shard": shard["w"].unique().tolist(),
    "objects": [[one["name"], one["bytes"], one["etag"] != ""] for one in written["objects"]],
    "names": sorted(store.ls("bucket/hf/averaged", detail=False)),
}), flush=True)
os._exit(0)
"""


def test_files_and_directories_in_google_storage_are_averaged() -> None:
    environment = os.environ | {
        "FSSPEC_GCS_TOKEN": "anon",
        "FSSPEC_GS_TOKEN": "anon",
        # Its look at the kind of bucket speaks gRPC, which the emulator does not.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
        timeout=DEADLINE_S,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    mean = 14 / 3  # of 2, 4 and 8
    assert found["codes"] == [0, 0, 1]
    assert found["file"] == pytest.approx([mean], rel=1e-7)
    assert found["shard"] == pytest.approx([mean], rel=1e-7)
    names = {name: (nbytes, has_etag) for name, nbytes, has_etag in found["objects"]}
    assert names.keys() == {"model.safetensors", "config.json"}
    assert names["config.json"] == (2, True)
    assert [name.rpartition("/")[2] for name in found["names"]] == [
        "averaging.json",
        "config.json",
        "model.safetensors",
    ]
    assert "gs://bucket/nothing: cannot be read: does not exist, or is empty" in done.stderr
