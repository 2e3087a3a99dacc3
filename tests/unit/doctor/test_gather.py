"""What is found out about the real machine."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from closed_directory import close_directory
from fake_trainer import FakeRank, make_hello

from trackside.wire.segment import remove
from tracksided.cli.group import group
from tracksided.doctor.gather import gather
from tracksided.logind import lingers, removes_ipc


def test_facts_of_a_directory_with_a_segment(shm_dir: Path, tmp_path: Path) -> None:
    rank = FakeRank(shm_dir, make_hello(tmp_path), ring_bytes=1 << 14)
    rank.publish(1)

    facts = gather(shm_dir, [tmp_path / "not" / "there"], tmp_path)

    assert (facts.node.owner, facts.node.mode) == (os.geteuid(), 0o700)
    assert (facts.num_segments, facts.daemon) == (1, None)
    assert facts.space is not None
    assert facts.space.kind == "tmpfs"
    space = os.statvfs(shm_dir)
    assert facts.space.total_bytes == space.f_blocks * space.f_frsize
    (output,) = facts.outputs
    assert (output.path, output.is_writable) == (tmp_path / "not" / "there", True)
    assert output.in_the_way is None
    assert facts.versions["torch"] is not None
    rank.abandon()
    remove(rank.writer.path)


def test_a_file_in_the_way_of_outputs_is_named(shm_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    (output,) = gather(shm_dir, [tmp_path / "file" / "out"], tmp_path).outputs

    assert not output.is_writable
    assert output.in_the_way == tmp_path / "file"


def test_what_lies_below_a_closed_directory_is_not_there_and_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    close_directory(closed, monkeypatch)

    facts = gather(closed / "shm" / "mine", [closed / "out"], tmp_path)

    assert facts.daemon is None
    assert (facts.node.exists, facts.node.can_be_made) == (False, False)
    assert [output.path for output in facts.outputs] == [closed / "out"]


def test_node_directory_without_a_parent_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert gather(tmp_path / "new", [], tmp_path).node.can_be_made
    assert not gather(tmp_path / "not" / "there", [], tmp_path).node.can_be_made
    assert not gather(tmp_path / "file" / "new", [], tmp_path).node.can_be_made


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, True),
        ({"etc/logind.conf": "[Login]\n#RemoveIPC=no\n"}, True),
        ({"etc/logind.conf": "[Login]\nRemoveIPC=no\n"}, False),
        ({"etc/logind.conf": "RemoveIPC = off", "usr/logind.conf.d/9.conf": "RemoveIPC=yes"}, True),
        ({"etc/logind.conf.d/1.conf": "RemoveIPC=no", "usr/logind.conf": "RemoveIPC=yes"}, False),
        (
            {
                "etc/logind.conf.d/1.conf": "RemoveIPC=no",
                "usr/logind.conf.d/1.conf": "RemoveIPC=yes",
            },
            False,
        ),
        ({"usr/logind.conf": "RemoveIPC=no", "etc/logind.conf": ""}, True),
    ],
)
def test_logind_is_read_as_systemd_reads_it(
    tmp_path: Path,
    files: dict[str, str],
    expected: bool,  # noqa: FBT001 - the answer
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert removes_ipc([tmp_path / "etc", tmp_path / "usr"]) is expected


def test_a_user_lingers_whose_name_is_there(tmp_path: Path) -> None:
    (tmp_path / "ada").touch()

    assert lingers("ada", tmp_path)
    assert not lingers("bob", tmp_path)


def test_command_exits_1_where_something_fails(shm_dir: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    (tmp_path / "file").touch()
    good = runner.invoke(group, ["doctor", "--json", "-o", str(tmp_path)])
    ill = runner.invoke(group, ["doctor", "-o", str(tmp_path / "file")])
    shm_dir.chmod(0o755)
    open_to_all = runner.invoke(group, ["doctor", "--json", "-o", str(tmp_path)])
    shm_dir.chmod(0o700)

    findings = {entry["check"]: entry for entry in json.loads(good.output)["findings"]}
    assert findings["outputs"]["result"] == "ok"
    assert ill.exit_code == 1
    assert "-> move it away" in ill.output
    assert open_to_all.exit_code == 1
    assert json.loads(open_to_all.output)["result"] == "fail"
