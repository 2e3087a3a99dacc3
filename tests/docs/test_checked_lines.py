"""Shell lines that a test cannot type: what they name is there."""

import argparse
import contextlib
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib

import click
import pytest
import yaml
from claimed_lines import CHECKED, ShellLine, claimed
from documents import ROOT
from guide import file_text
from mkdocs.__main__ import cli as mkdocs
from packaging.requirements import Requirement
from understood import parse

from tracksided.listen_address import DEFAULT, parse_listen_address

PORT = str(parse_listen_address(DEFAULT).port)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = PROJECT["dependency-groups"]
POD = "docs/how-to/kubernetes.md"
# Its own reading of a command line; a process of its own, for what it imports warns.
TENSORBOARD = """
import sys
from tensorboard.program import TensorBoard
program = TensorBoard()
program.configure(sys.argv)
print(program.flags.logdir)
"""


def words_of(line: ShellLine) -> list[str]:
    return shlex.split(line.text.replace("<", "").replace(">", ""))


def understand(words: list[str]) -> None:
    """Parse what follows `trackside` in a line."""
    with contextlib.suppress(click.exceptions.Exit):
        parse(words[words.index("trackside") + 1 :])


def pip_parser() -> argparse.ArgumentParser:
    """Return what reads as much of pip as the pages use."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("command", choices=("install", "freeze"))
    parser.add_argument("--constraint", choices=("constraints.txt",))
    parser.add_argument("--group", choices=GROUPS)
    parser.add_argument("--exclude-editable", action="store_true")
    parser.add_argument("requirements", nargs="*", type=Requirement)
    return parser


@claimed(f"{CHECKED}::test_pip_is_asked_for_what_there_is")
def test_pip_is_asked_for_what_there_is(line: ShellLine) -> None:
    words = [re.sub(r"^\.(?=\[|$)", "trackside", word) for word in words_of(line)]
    groups = [entry for group in GROUPS.values() for entry in group]
    known = {Requirement(entry).name for entry in groups if isinstance(entry, str)}

    for requirement in pip_parser().parse_args(words[1:]).requirements:
        if requirement.name == "trackside":
            assert requirement.extras <= set(PROJECT["project"]["optional-dependencies"])
            continue
        assert requirement.name in known  # what we test with
        if requirement.extras:
            metadata = importlib.metadata.metadata(requirement.name)
            assert requirement.extras <= set(metadata.get_all("Provides-Extra") or ())


@claimed(f"{CHECKED}::test_nox_has_the_sessions")
@pytest.mark.integration
def test_nox_has_the_sessions(line: ShellLine) -> None:
    pytest.importorskip("nox", reason="nox is not here (group dev)")
    _, option, *sessions = words_of(line)

    done = subprocess.run(
        [sys.executable, "-m", "nox", "--list-sessions", "--json", option, *sessions],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )

    assert option == "-s"
    assert set(sessions) == {session["name"] for session in json.loads(done.stdout)}


@claimed(f"{CHECKED}::test_mkdocs_has_the_command")
def test_mkdocs_has_the_command(line: ShellLine) -> None:
    _, command = words_of(line)

    assert command in mkdocs.commands


@claimed(f"{CHECKED}::test_tensorboard_takes_the_options")
@pytest.mark.integration
def test_tensorboard_takes_the_options(line: ShellLine) -> None:
    words = words_of(line)

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TENSORBOARD, *words[1:]],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == words[words.index("--logdir") + 1]


@claimed(f"{CHECKED}::test_pytest_finds_the_tests")
@pytest.mark.integration
def test_pytest_finds_the_tests(line: ShellLine) -> None:
    _, *words = words_of(line)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert re.search(r"^tests/.*::test_", done.stdout, re.MULTILINE)


@claimed(f"{CHECKED}::test_kubectl_names_what_is_in_the_pod")
def test_kubectl_names_what_is_in_the_pod(line: ShellLine) -> None:
    pod = yaml.safe_load(file_text(POD, "pod.yaml"))
    containers = [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
    _, command, *words = words_of(line)
    inside = words[words.index("--") + 1 :] if "--" in words else []

    if command == "apply":
        assert words == ["-f", "pod.yaml"]
    elif command == "port-forward":
        assert words == [pod["metadata"]["name"], PORT]
    else:
        assert command in {"exec", "logs"}
        assert words[0] == pod["metadata"]["name"]
        assert words[1:3] == ["-c", "trackside"]
        assert "trackside" in {container["name"] for container in containers}
    if inside:
        understand(inside)


@claimed(f"{CHECKED}::test_srun_starts_commands_of_ours")
def test_srun_starts_commands_of_ours(line: ShellLine) -> None:
    words = words_of(line)

    understand(words)
    assert words[:2] == ["srun", "trackside"]


@claimed(f"{CHECKED}::test_a_line_for_the_system_names_what_is_ours")
def test_a_line_for_the_system_names_what_is_ours(line: ShellLine) -> None:
    """Units and ports are ours; of all else only that a shell can read it."""
    words = words_of(line)
    units = [word for word in words if word.startswith("trackside")]
    folder = ROOT / "systemd" / ("user" if "--user" in words else "")

    for unit in units:
        template = re.sub("@.*", "@", unit)
        assert (folder / f"{template}.service").is_file()
    if words[0] == "ssh":
        assert words[2] == f"{PORT}:localhost:{PORT}"
    read = subprocess.run(["bash", "-n", "-c", shlex.join(words)], check=False)
    assert read.returncode == 0
