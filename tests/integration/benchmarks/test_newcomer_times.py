"""The times of a newcomer are written as a result that is kept, on a machine that only pretends."""

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keep
import pytest
from clean_debian import CommandFailed
from documents import ROOT

pytestmark = pytest.mark.integration
VERSIONS = {"python": "3.13.5", "torch": "2.13.0+cpu"}


class PretendedDebian:
    """Takes a second longer for each command than for the one before."""

    def __init__(self, root: Path, failing: str) -> None:
        self.root = root
        self._failing = failing
        self._count = 0

    def run(self, command: str, *, user: str, log: Path) -> float:
        if self._failing and self._failing in command:
            raise CommandFailed(f"{command} as {user}")
        answer = json.dumps(VERSIONS) if "torch.__version__" in command else command
        log.write_text(f"a warning\n{answer}\n")
        if command.endswith("make demo"):
            folder = self.root / "home" / "newcomer" / "trackside" / "run"
            folder.mkdir(parents=True)
            (folder / "decoder_layer0_self_attn.png").write_bytes(b"map")
        self._count += 1
        return float(self._count)


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tests/newcomer/run.py, without Debian."""
    spec = importlib.util.spec_from_file_location("run", ROOT / "tests/newcomer/run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.path", list(sys.path))
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, place: Path, failing: str) -> int:
    root = place / "root"
    (root / "etc/apt/apt.conf.d").mkdir(parents=True)
    (root / "tmp").mkdir()

    @contextlib.contextmanager
    def debian(suite: str, **_: Any) -> Iterator[PretendedDebian]:
        assert suite == "trixie"
        yield PretendedDebian(root, failing)

    monkeypatch.setattr(module, "debian", debian)
    monkeypatch.setattr(
        "sys.argv", ["run.py", "trixie", "--note", "on a train", "--out", str(place / "out")]
    )
    return int(module.main())


def test_the_times_are_kept_with_commit_versions_and_load(
    newcomer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(newcomer, monkeypatch, tmp_path, failing="") == 0

    found = keep.read(tmp_path / "out" / "newcomer_trixie.json")
    head = ["git", "-C", ROOT, "rev-parse", "HEAD"]
    commit = subprocess.run(head, check=True, capture_output=True, text=True).stdout
    assert found["settings"].pop("commit") == commit[:12]
    assert found["settings"] == {"suite": "trixie", "user": "newcomer", "note": "on a train"}
    assert found["versions"] == VERSIONS
    assert len(found["load_average"]["before"]) == 3
    # Two commands come before the first step, and one asks for the versions before the demo.
    seconds = {row["step"]: row["seconds"] for row in found["tables"]["steps"]["rows"]}
    assert seconds == {
        "packages": 3.0,
        "clone": 4.0,
        "torch": 5.0,
        "make demo": 7.0,
        "clone to map, without torch": 11.0,
        "make test": 8.0,
        "wheel and sdist": 9.0,
        "removal of the source tree": 10.0,
        "wheel in a project": 11.0,
        "sdist in a project": 12.0,
    }


def test_times_of_a_journey_that_failed_are_not_kept(
    newcomer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(newcomer, monkeypatch, tmp_path, failing="make test") == 1

    assert not list(tmp_path.glob("out/*.json"))
