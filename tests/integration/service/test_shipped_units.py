"""The units as they lie in the repository, read by systemd's own tools; no systemd has to run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tracksided.service_units import units_directory

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"),
]

EXPOSURE_TENTHS = 12


def analyze(runtime_directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime_directory)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ("--system", "trackside@.service"),
        ("--system", "trackside.slice"),
        ("--user", "user/trackside.service"),
    ],
)
def test_the_unit_verifies_without_a_word(tmp_path: Path, scope: str, name: str):
    done = analyze(tmp_path, scope, "verify", str(units_directory() / name))

    # Unknown keys are only warnings, with exit code 0.
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_system_unit_is_hardly_exposed(tmp_path: Path):
    unit = units_directory() / "trackside@.service"

    done = analyze(
        tmp_path, "security", "--offline=true", f"--threshold={EXPOSURE_TENTHS}", str(unit)
    )

    assert done.returncode == 0, done.stdout
