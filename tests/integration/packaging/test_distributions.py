"""The wheel and the sdist as a user gets them, away from the source tree."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.metadata import Metadata
from readme_renderer import markdown

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
TRAINING = """
import sys
import torch, trackside
assert trackside.__file__.startswith(sys.argv[1]), trackside.__file__
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with trackside.attach(model, optimizer, every=1, save_dir=sys.argv[2]):
    for step in range(1, 4):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.save(model.state_dict(), f"{sys.argv[3]}/step_{step}.pt")
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


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Metadata:
    """What the wheel says of itself, checked against the specification."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        return Metadata.from_email(archive.read(name), validate=True)


def git_files(*arguments: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines())


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
    expected = {name.split("/", 1)[1] for name in git_files("emitter", "daemon")}

    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())


def test_the_sdist_holds_the_repository_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames()}

    assert held == git_files("--cached", "--others", "--exclude-standard") | {"PKG-INFO"}


def test_the_metadata_names_what_a_user_gets(metadata: Metadata) -> None:
    needed = metadata.requires_dist or []
    base = {requirement.name for requirement in needed if requirement.marker is None}

    assert base == {"msgpack", "numpy", "pyzmq", "torch"}
    assert metadata.provides_extra == ["alerts", "daemon", "gs", "s3"]
    vendored = "daemon/tracksided/web/static/vendor/uplot/LICENSE"
    assert (metadata.license_expression, metadata.license_files) == (
        "Apache-2.0 AND MIT",
        ["LICENSE", vendored],
    )


def test_the_readme_is_a_description_that_an_index_can_show(metadata: Metadata) -> None:
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")

    shown = markdown.render(metadata.description)

    assert shown is not None
    assert re.search(r"<h1[^>]*>trackside<", shown)
    assert "make demo" in shown


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path / "unpacked"], check=True)
    (source,) = (tmp_path / "unpacked").iterdir()

    again = build(source, "wheel", tmp_path / "again")

    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
        for name in first.namelist():
            if not name.endswith("/RECORD"):
                assert first.read(name) == second.read(name), name


def test_the_installed_command_shows_its_subcommands(installed: Path, tmp_path: Path) -> None:
    helped = run(
        installed / "bin" / "trackside", "--help", directory=tmp_path, PYTHONPATH=str(installed)
    )

    assert {"average", "daemon", "demo", "doctor", "report", "run", "service", "status"} <= set(
        helped.split()
    )


def test_the_installed_wheel_trains_serves_and_averages(
    installed: Path, tmp_path: Path, shm_dir: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    environ = {"PYTHONPATH": str(installed), "TRACKSIDE_SHM_DIR": str(shm_dir)}
    command = ("-m", "tracksided")
    training = (sys.executable, script, installed, tmp_path / "out", checkpoints)

    run(*command, "run", "--", *training, directory=tmp_path, **environ)
    run(*command, "average", checkpoints, directory=tmp_path, **environ)
    found = run(
        "-c", "import tracksided; print(tracksided.__file__)", directory=tmp_path, **environ
    )
    shown = run(*command, "service", "show", directory=tmp_path, **environ)

    assert found.startswith(str(installed))
    assert len((tmp_path / "out" / "history.jsonl").read_text().splitlines()) == 3
    # The gradient of a sum of two rows of ones is 2 everywhere: each step moves by -0.1 * 2.
    first, second, third = (
        torch.load(checkpoints / f"step_{step}.pt", weights_only=True) for step in (1, 2, 3)
    )
    torch.testing.assert_close(third["weight"], first["weight"] - 0.4)
    averaged = torch.load(checkpoints / "averaged_model.pt", weights_only=True)
    torch.testing.assert_close(averaged["weight"], second["weight"])
    assert "Type=notify" in shown
