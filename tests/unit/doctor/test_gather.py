"""What is found out about the real machine."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_trainer import FakeRank, make_hello

from trackside.wire.segment import remove
from tracksided.cli.group import group
from tracksided.doctor.gather import gather
from tracksided.doctor.logind import lingers, removes_ipc


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
    assert facts.versions["torch"] is not None
    rank.abandon()
    remove(rank.writer.path)


def test_output_that_is_a_file_is_not_writable(shm_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    (output,) = gather(shm_dir, [tmp_path / "file" / "out"], tmp_path).outputs

    assert not output.is_writable


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
    assert "-> change its permissions" in ill.output
    assert open_to_all.exit_code == 1
    assert json.loads(open_to_all.output)["result"] == "fail"
