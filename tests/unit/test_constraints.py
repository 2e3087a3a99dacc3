"""The versions that we develop with can be installed wherever the project runs."""

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

OLDEST_PYTHON = "3.11.2"  # Debian 12
LINES = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [line.split("==") for line in LINES if line and not line.startswith("#")]


@pytest.mark.parametrize(("name", "version"), PINS)
def test_a_pinned_version_takes_the_python_of_debian_12(name: str, version: str) -> None:
    try:
        found = metadata(name)
    except PackageNotFoundError:
        pytest.skip("not installed here")
    if found["Version"].partition("+")[0] != version:
        pytest.skip(f"version {found['Version']} is installed here")

    assert OLDEST_PYTHON in SpecifierSet(found.get("Requires-Python", ""))
