"""Scripts of other projects are fetched as they were measured, or refused."""

import dataclasses
import hashlib
import subprocess
from pathlib import Path

import peers
import pytest

pytestmark = pytest.mark.integration
SCRIPT = "import argparse, theirs.files\nargparse.ArgumentParser().parse_args()\n"


def git(place: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    command = ["git", "-C", place, *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def peer(tmp_path: Path) -> peers.Peer:
    """A project whose script needs one file of a package that cannot be imported; later changed."""
    theirs = tmp_path / "theirs"
    (theirs / "theirs").mkdir(parents=True)
    git(theirs, "init", "--quiet")
    (theirs / "script.py").write_text(SCRIPT)
    (theirs / "theirs" / "files.py").touch()
    (theirs / "theirs" / "__init__.py").write_text("import no_such_package")
    git(theirs, "add", ".")
    git(theirs, "commit", "--quiet", "--message", "as measured")
    commit = git(theirs, "rev-parse", "HEAD")
    (theirs / "script.py").write_text("changed")
    git(theirs, "commit", "--quiet", "--all", "--message", "later")
    return peers.Peer(
        name="project",
        repository=theirs.as_uri(),
        commit=commit,
        version="1",
        script="script.py",
        sha256=hashlib.sha256(SCRIPT.encode()).hexdigest(),
        needs=("theirs/files.py",),
    )


def test_a_script_is_fetched_at_its_commit_and_starts(
    peer: peers.Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PEERS", (peer,))
    into = tmp_path / "peers"

    script = peers.fetch(peer, into)

    assert script.read_text() == SCRIPT
    peers.start(peer, into)
    assert peers.fetch(peer, into) == script  # what is there is used


def test_a_script_with_another_digest_is_refused(peer: peers.Peer, tmp_path: Path) -> None:
    measured = dataclasses.replace(peer, sha256="0" * 64)

    with pytest.raises(peers.PeerUnusable, match=r"0{64} was measured; remove .*/peers/project"):
        peers.fetch(measured, tmp_path / "peers")


def test_a_script_that_does_not_start_is_named(
    peer: peers.Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PEERS", (peer,))
    script = peers.fetch(peer, tmp_path / "peers")
    script.write_text("import no_such_package")

    with pytest.raises(peers.PeerUnusable, match="project does not start: ModuleNotFoundError"):
        peers.start(peer, tmp_path / "peers")


def test_scripts_that_were_not_fetched_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PLACE", tmp_path)
    assert peers.fetched("fairseq") is None

    (tmp_path / peers.CHECKED).touch()

    script = tmp_path / "fairseq" / "scripts" / "average_checkpoints.py"
    assert peers.fetched("fairseq") == script
