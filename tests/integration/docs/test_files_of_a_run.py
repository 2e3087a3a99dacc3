"""docs/reference/files.md is what is written: every key, its type, and when it is missing."""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from described_files import Objects, Reader, read_page
from documents import ROOT, blocks
from told_run import Told, tell

from tracksided.monitors.document import host_object
from tracksided.monitors.reading import (
    DiskReading,
    GpuReading,
    HostReading,
    ProcessReading,
    XidError,
)

pytestmark = pytest.mark.integration

PAGE = "docs/reference/files.md"
# Kind of file to the heading that describes it, in the order of the page.
ANCHORS: Mapping[str, str] = {
    "history.jsonl": "historyjsonl",
    "statistics.json": "statisticsjson",
    "alerts.jsonl": "alertsjsonl",
    "run.json": "runjson",
    "training_statistics.json": "training_statisticsjson",
    "averaged_model.json": "averaged_modeljson",
    "status.json": "statusjson",
    "status": "what-status-prints",
    "host": "the-machine",
}
EXAMPLES = [kind for kind in ANCHORS if kind != "host"]
# Long parts that an example does without; the words above it say so.
LEFT_OUT = {
    "history.jsonl": {"layer_norms", "shrunk", "host"},
    "training_statistics.json": {"averages"},
    "status.json": {"settings", "runs", "checkpoints"},
}
# What only trouble fills, or a moment that no test can catch: it may be null all along.
MAY_STAY_NULL = {
    ("historyjsonl", "shed"),
    ("a-run-in-the-status", "problem"),
    ("a-rank-in-the-status", "problem"),
    ("a-watched-directory", "progress"),
    ("a-watched-directory", "kept"),
    ("a-watched-directory", "polled_because"),
    ("a-child-of-the-daemon", "problem"),
    ("an-averaging", "error"),
}
GIB = 1 << 30
MACHINE = HostReading(
    timestamp=1.5,
    cpu_percent=50.0,
    memory_percent=40.0,
    memory_pressure_level=1,
    pressure_some_avg10=0.5,
    pressure_full_avg10=0.25,
    cgroup_memory_bytes=GIB,
    cgroup_memory_limit_bytes=2 * GIB,
    disks=(DiskReading(path="/", free_bytes=GIB, total_bytes=2 * GIB),),
    gpus=(
        GpuReading(
            index=0,
            uuid="GPU-1",
            name="a GPU",
            utilization_percent=37.0,
            memory_used_bytes=GIB,
            memory_total_bytes=2 * GIB,
            temperature_c=71.0,
            slowdown_temperature_c=92.0,
            power_w=350.5,
            throttle_reasons=("sw_power_cap",),
            xid_errors=(XidError(timestamp=1.0, code=79),),
        ),
    ),
    processes={
        7: ProcessReading(
            rank=0, rss_bytes=GIB, cpu_percent=99.5, gpu_memory_bytes=GIB, gpu_indices=(0,)
        )
    },
)
"""With all that a machine without GPUs and cgroups does not show."""


@pytest.fixture(scope="module")
def objects() -> Objects:
    return read_page(ROOT / PAGE)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    shm_dir = Path("/dev/shm") / f"ts-test-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    shm_dir.mkdir(mode=0o700)
    try:
        told = tell(shm_dir, tmp_path_factory.mktemp("told"))
        told.add("host", "a machine that shows everything", written(host_object(MACHINE)))
        yield told
    finally:
        shutil.rmtree(shm_dir)


def written(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reader gets of it: lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found


@pytest.mark.parametrize("kind", ANCHORS)
def test_what_is_written_is_on_the_page(told: Told, objects: Objects, kind: str) -> None:
    reader = Reader(objects)

    complaints = {
        (complaint.where, complaint.what)
        for _, document in told.by_kind[kind]
        for complaint in reader.check(ANCHORS[kind], document)
    }

    assert told.by_kind[kind]
    assert sorted(complaints) == []


def test_what_is_on_the_page_is_written(told: Told, objects: Objects) -> None:
    reader = Reader(objects)
    for kind, documents in told.by_kind.items():
        for _, document in documents:
            reader.check(ANCHORS[kind], document)

    on_the_page = {(anchor, key) for anchor, keys in objects.items() for key in keys}

    assert on_the_page - reader.seen <= MAY_STAY_NULL


def test_every_key_says_what_it_is(objects: Objects) -> None:
    empty = [key for keys in objects.values() for key in keys.values() if not key.meaning]

    assert len(objects) > 40
    assert empty == []


def test_the_examples_are_what_the_tables_say(objects: Objects) -> None:
    """They have all keys that the tables have, but for those that the page says are left out."""
    examples = [json.loads(block.text) for block in blocks("json") if block.page == PAGE]

    complaints = {
        kind: Reader(objects).check(ANCHORS[kind], example)
        for kind, example in zip(EXAMPLES, examples, strict=True)
    }

    found = {kind: {each.where for each in each_of} for kind, each_of in complaints.items()}
    assert {kind: places for kind, places in found.items() if places} == LEFT_OUT
    assert {each.what for each_of in complaints.values() for each in each_of} == {
        "absent, and the page does not say so"
    }


def test_a_reader_sees_what_is_wrong() -> None:
    page = read_page(ROOT / PAGE)
    alert = {
        **{key: None for key in page["alertsjsonl"] if key != "rule"},
        "run": 1,
        "step": True,
        "value": 1,
        "surprise": 2,
    }

    complaints = {found.where: found.what for found in Reader(page).check("alertsjsonl", alert)}

    assert complaints["rule"] == "absent, and the page does not say so"
    assert complaints["advice"] == "null, and the page does not say so"
    assert complaints["run"] == "1 is no text"
    assert complaints["step"] == "True is no whole number"
    assert complaints["surprise"] == "not on the page"
    assert "value" not in complaints
