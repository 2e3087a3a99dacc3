"""The wheel and the sdist as a user gets them, away from the source tree."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
TRAINING = """
import sys
import torch, trackside
assert trackside.__file__.startswith(sys.argv[1]), trackside.__file__
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with trackside.attach(model, optimizer, every=1, save_dir=sys.argv[2]):
    for _ in range(3):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
"""


def run(*arguments: str | Path, directory: Path, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=directory,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, target: str, into: Path) -> Path:
    run("-m", "hatchling", "build", "-t", target, "-d", into, directory=source)
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of packages that holds the wheel's content and nothing of the source tree."""
    site = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, directory=site)
    return site


def test_the_wheel_holds_both_packages_units_and_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"trackside", "tracksided"}
    assert {"trackside/py.typed", "tracksided/py.typed"} <= names
    for unit in (ROOT / "systemd").rglob("trackside*"):
        if unit.is_file():
            assert f"tracksided/units/{unit.relative_to(ROOT / 'systemd')}" in names


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "emitter", "daemon"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name.split("/", 1)[1] for name in tracked}

    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()

    again = build(source, "wheel", tmp_path / "again")

    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
        for name in first.namelist():
            if not name.endswith("/RECORD"):
                assert first.read(name) == second.read(name), name


def test_the_installed_wheel_trains_serves_and_averages(
    installed: Path, tmp_path: Path, shm_dir: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    environ = {"PYTHONPATH": str(installed), "TRACKSIDE_SHM_DIR": str(shm_dir)}
    command = ("-m", "tracksided")

    run(
        *(*command, "run", "--", sys.executable, script, installed, tmp_path / "out"),
        directory=tmp_path,
        **environ,
    )
    found = run(
        "-c", "import tracksided; print(tracksided.__file__)", directory=tmp_path, **environ
    )
    shown = run(*command, "service", "show", directory=tmp_path, **environ)

    assert found.startswith(str(installed))
    assert len((tmp_path / "out" / "history.jsonl").read_text().splitlines()) == 3
    assert "Type=notify" in shown
