"""What every benchmark has around it."""

import argparse
import json
import os
import subprocess
from pathlib import Path

import machine
import numpy as np
import pytest
from figures import Spread
from frame import Benchmark, Findings
from tables import Column, Limit, Table


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=70)
    parser.add_argument("--place", type=Path, nargs="+", default=[])


def measure(arguments: argparse.Namespace) -> Findings:
    rows = [{"what": "rounds", "value": Spread(arguments.rounds, 1.0, 9.0)}]
    table = Table((Column("what", "what"), Column("value", "value", 1)), rows, "all")
    return Findings({"values": table}, [Limit("rounds", "<=", 8, {"": 7})], {"peer": None})


BENCHMARK = Benchmark(
    file="/somewhere/made_up.py",
    about="Measure nothing.\n\nMore.",
    add_options=add_options,
    measure=measure,
    quick={"rounds": 2, "steps": 20},
    packages=("numpy", "no-such-package"),
)


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> dict:
    file = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["made_up.py", "--json", str(file), *words])

    BENCHMARK.main()

    return json.loads(file.read_text())


def head_commit() -> str:
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        asked, cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    ).stdout


def test_the_json_says_what_was_found_where_and_with_what(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = run(monkeypatch, tmp_path, "--place", str(tmp_path))

    assert found["benchmark"] == "made_up"
    commit = found["settings"].pop("commit")
    if commit is not None:  # a source tree without its history has none
        assert head_commit().startswith(commit.removesuffix("-dirty"))
    assert found["settings"] == {"rounds": 7, "steps": 70}  # places are of this machine alone
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["no-such-package"] is None
    assert found["versions"]["peer"] is None
    assert found["machine"]["kernel"] == os.uname().release
    assert found["tables"]["values"]["rows"][0]["value"] == {"median": 7, "low": 1.0, "high": 9.0}
    assert found["limits"][0]["kept"] is True
    assert found["is_quick"] is False
    assert str(tmp_path) not in json.dumps(found)


def test_only_a_change_of_what_is_measured_marks_the_commit(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        named = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        asked = ["git", *named, *words]
        return subprocess.run(
            asked, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    results, code = tmp_path / "benchmarks" / "results.json", tmp_path / "code.py"
    results.parent.mkdir()
    for file in (results, code):
        file.write_text("1")
    assert machine.commit(tmp_path) is None
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "--short", "HEAD")

    results.write_text("2")
    assert machine.commit(tmp_path) == head

    code.write_text("2")
    assert machine.commit(tmp_path) == f"{head}-dirty"


def test_the_short_form_changes_defaults_and_no_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = run(monkeypatch, tmp_path, "--quick", "--rounds", "5")

    assert found["settings"] | {"commit": None} == {"rounds": 5, "steps": 20, "commit": None}
    assert found["is_quick"] is True


def test_the_tables_are_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tmp_path)

    lines = capsys.readouterr().out.splitlines()
    assert "| rounds | 7.0 [1.0, 9.0] |" in lines
    assert "| rounds <= 8 | 7 | yes |" in lines
