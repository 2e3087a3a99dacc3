"""What a trainer says may be anything: it costs that trainer, and nobody else."""

import itertools
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_attention, make_hello
from written import history, load, scalars, steps

from trackside.wire.records import Gradients, LoggedScalar, LoggedText, RecordKind
from trackside.wire.segment import SHM_DIR_VARIABLE, remove
from tracksided.cli.group import group

pytestmark = pytest.mark.integration

DEEP: dict[str, Any] = {}
for _ in range(200):
    DEEP = {"deeper": DEEP}

REFUSED: dict[str, dict[str, Any]] = {
    "nul-in-save-dir": {"save_dir": "/somewhere/a\0b"},
    "relative-save-dir": {"save_dir": "out"},
    "nul-in-checkpoints": {"checkpoints": ("/somewhere/a\0b",)},
    "relative-checkpoints": {"checkpoints": ("out",)},
    "bytes-in-config": {"config": {"key": b"\xff\0"}},
    "deep-config": {"config": DEEP},
    "rank-outside-world": {"rank": 4, "world_size": 4},
    "negative-node": {"node_rank": -1},
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "newline-in-save-dir": {"save_dir": "with\nnewline"},
    "huge-world": {"world_size": 1 << 62},
    "hostile-names": {"visualize": ("../../etc", "\0", "heatmap"), "hostname": "\x1b[2J\n"},
    "nan-in-config": {"config": {"nan": float("nan"), "list": [1, None, {"": True}]}},
    "strange-time": {"started_at": float("nan"), "started_boottime": float("nan")},
}


def test_hostile_hellos_are_refused_or_served(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    refused = []
    for name, changes in REFUSED.items():
        hello = make_hello(tmp_path / name, run=name)
        rank = FakeRank(shm_dir, replace(hello, **changes), nonce="x")
        rank.publish(1)
        refused.append(rank)
    served = {}
    for name, changes in ACCEPTED.items():
        save_dir = str(tmp_path / changes.get("save_dir", name))
        hello = replace(make_hello(tmp_path, run=name), **{**changes, "save_dir": save_dir})
        served[save_dir] = FakeRank(shm_dir, hello, nonce="x")
        served[save_dir].publish(1)

    for save_dir, rank in served.items():
        wait_until(lambda directory=Path(save_dir): steps(directory) == [1])
        rank.close()
    for rank in refused:
        name = rank.writer.path.name
        wait_until(lambda name=name: name in load(shm_dir / "status.json")["refused"])
        rank.abandon()
        remove(rank.writer.path)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.output


def test_no_name_reaches_a_terminal_or_the_log_as_a_command(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.start()
    out = tmp_path / "\x1b]0;out\x07\u202e\n"
    checkpoints = tmp_path / "\x1b[2J\n"
    checkpoints.mkdir()
    rank = FakeRank(shm_dir, make_hello(out, checkpoints=(str(checkpoints),)))
    rank.publish(1)
    wait_until(lambda: steps(out) == [1])
    monkeypatch.setenv(SHM_DIR_VARIABLE, str(shm_dir))
    wait_until(lambda: bool(load(shm_dir / "status.json")["checkpoints"]["directories"]))

    shown = [CliRunner().invoke(group, [word]).output for word in ("status", "doctor")]
    rank.close()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    for output in (*shown, daemon.output):
        assert f"{tmp_path}/\\x1b]0;out\\x07\\u202e\\n" in output
        assert all(map(str.isprintable, output.split("\n")))


def test_hostile_records_cost_only_themselves(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out, save_raw=True), ring_bytes=8 << 20)
    long_name = "../" * 3000 + "\0\n<script>"
    hostile = Gradients(
        names=(long_name, ""), num_elements=(12, -5), total_elements=(0, 2**62), shards=(-1, 7)
    )
    rank.publish(1, gradients=hostile)
    rank.publish(2, attention=(replace(make_attention(), module=long_name, layer=2**60),))
    rank.publish(3, attention=(replace(make_attention(), heads=(), key_heads=()),))
    rank.publish(4, attention=(replace(make_attention(), num_keys=2**40),))
    rank.publish(5, scalars=(LoggedScalar(step=2**63, name="x", value=1.0),))
    rank.publish(6, texts=(LoggedText(step=-1, tag="x", text=""),))
    rank.publish(7, loss=float("nan"), learning_rate=float("inf"), timestamp=float("nan"))
    rank.publish(8, epoch=-(2**62), epoch_requested=True)
    rank.publish(9, scalars=(LoggedScalar(step=9, name="../\0", value=1e300),))
    rank.writer.publish(RecordKind.STEP, 10, b"\xc1 is no msgpack")
    rank.writer.publish(RecordKind.STEP, 11, b"\xdd\xff\xff\xff\xff")
    rank.writer.publish(RecordKind.CLOSE, 0, b"\x80")
    rank.publish(2**63 - 1)
    rank.publish(12)
    rank.close(steps=2**64 - 1)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert steps(out) == [1, 2, 3, 4, 7, 8, 9, 2**63 - 1, 12]
    lines = {line["step"]: line for line in history(out)}
    assert lines[3]["failures"]["worker"].startswith("attention/0 contradicts itself")
    assert "worker" in lines[4]["failures"]
    unfinite = ["timestamp", "loss", "lr", "ranks.0.loss"]
    assert (lines[7]["loss"], lines[7]["nonfinite"]) == (None, unfinite)
    assert lines[12]["failures"] == {}
    assert [step for step, _ in scalars(out, "Training/Loss")][-1] == 12
    (entry,) = load(out / "training_statistics.json")["ranks"]
    assert entry["corrupt"] == 6  # 5, 6, 10, 11, both last records
    assert entry["reason"] == "killed"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "daemon.log"}
    assert "Traceback" not in daemon.output


def test_close_records_without_end_do_not_keep_a_run_open(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(tmp_path / "out"))
    for _ in range(200):
        rank.writer.publish(RecordKind.CLOSE, 0, b"\x80")
    rank.publish(1)
    rank.close()

    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    assert steps(tmp_path / "out") == [1]


def test_published_bytes_without_memory_are_refused(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    rank = FakeRank(shm_dir, make_hello(tmp_path / "out"))
    rank.publish(1)
    path = rank.writer.path
    rank.abandon()
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(0)
        file.truncate(len(content))
        file.write(content[:8192])

    daemon.start()
    wait_until(lambda: "sparse" in daemon.output)
    assert daemon.stop() == 0
    remove(path)


def test_more_segments_than_descriptors_are_served_in_turn(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    staging = shm_dir / "staging"
    staging.mkdir()
    names = [f"r{number}" for number in range(12)]  # each costs a final report
    for name in names:
        hello = make_hello(tmp_path / name, run=name, visualize=())
        rank = FakeRank(staging, hello, nonce="x", ring_bytes=1 << 14)
        rank.publish(1)
        rank.close()
    daemon.start()
    wait_until((shm_dir / "status.json").exists)
    used = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
    limit = (used + 24) * 4 // 3  # a quarter is kept free; 24 do for some six runs
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, limit))
    for path in sorted(staging.iterdir()):
        path.rename(shm_dir / path.name)

    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    assert [steps(tmp_path / name) for name in names] == [[1]] * 12
    assert 0 < most_at_once(daemon.output) < 12
    assert "Traceback" not in daemon.output


def most_at_once(log: str) -> int:
    """Return how many runs were served at the same time at most."""
    changes = [("writes to" in line) - ("is over" in line) for line in log.splitlines()]
    return max(itertools.accumulate(changes))
