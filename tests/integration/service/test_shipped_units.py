"""The units as they lie in the repository, read by systemd's own tools; no systemd has to run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tracksided.listen_address import ListenAddress
from tracksided.service_units import HttpOpening, Program, system_service, units_directory

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"),
]

PROGRAM = Program(python=Path(sys.executable))
EXPOSURE_TENTHS = 12
EXPOSURE_BARE_TENTHS = 8  # of the unit without network
EXPOSURE_WITH_HTTP_TENTHS = 16


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

    assert exposure_tenths(tmp_path, unit) <= EXPOSURE_TENTHS


@pytest.mark.parametrize(
    ("host", "most_tenths"), [("127.0.0.1", EXPOSURE_WITH_HTTP_TENTHS), ("10.0.0.7", 20)]
)
def test_the_drop_in_for_http_verifies_and_opens_little_more(
    tmp_path: Path, host: str, most_tenths: int
):
    http = HttpOpening(address=ListenAddress(host, 9470), is_option=True)
    service = system_service("daemon", Path("/home/daemon"), PROGRAM, http=http)
    for file in service.files:
        path = tmp_path / "units" / file.path.relative_to("/etc/systemd/system")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    unit = tmp_path / "units" / service.name
    unit.symlink_to("trackside@.service")

    done = analyze(tmp_path, "--system", "verify", str(unit))

    assert (done.stderr, done.returncode) == ("", 0)
    assert EXPOSURE_BARE_TENTHS < exposure_tenths(tmp_path, unit) <= most_tenths


def exposure_tenths(runtime_directory: Path, unit: Path) -> int:
    done = analyze(runtime_directory, "security", "--offline=true", str(unit))
    (found,) = re.findall(r"Overall exposure level for \S+: ([0-9]+\.[0-9])", done.stdout)
    return round(float(found) * 10)
