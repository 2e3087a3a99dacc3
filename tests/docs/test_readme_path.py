"""What tests/newcomer/run.py reads off the README is what a newcomer types."""

from pathlib import Path

import documents
import pytest
from readme_path import readme_path


def test_the_readme_says_what_to_install_and_to_type() -> None:
    path = readme_path()

    assert path.packages.split()[:2] == ["apt", "install"]
    assert {"git", "make", "python3-venv"} <= set(path.packages.split())
    assert (path.demo, path.test) == ("make demo", "make test")
    assert path.clone.split()[:4] == ["git", "clone", "ADDRESS", "trackside"]
    assert "trackside.attach(model, optimizer)" in path.attach.splitlines()


def test_a_readme_without_its_commands_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("```sh\nmake demo\n```\n")
    for name in documents.PAGES[1:]:
        (tmp_path / name).touch()
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    monkeypatch.setattr("readme_path.ROOT", tmp_path)

    with pytest.raises(ValueError, match="make demo"):
        readme_path()
