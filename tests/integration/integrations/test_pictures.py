"""The pictures of README and docs are made by a command, and are those that it makes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tracksided.cli.demo import DEFAULT_STEPS

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("shm_dir")]

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "docs" / "images"
# Another processor trains to other last digits, which are other colours here and there.
MAX_DIFFERENCE = 2.0  # of 255, on average
WINDOW = (1280, 1480)


def make(script: str, *arguments: str | Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64)


def colours(*names: str) -> list[tuple[int, int, int]]:
    """Return colours of the page's light style, which stands first."""
    style = (ROOT / "daemon/tracksided/web/static/page.css").read_text(encoding="utf-8")
    found = [re.search(rf"{name}: #(\w\w)(\w\w)(\w\w);", style) for name in names]
    return [(int(f[1], 16), int(f[2], 16), int(f[3], 16)) for f in found if f is not None]


def test_pictures_in_the_docs_are_those_of_the_command(tmp_path: Path) -> None:
    make("pictures.py", "report", "quickstart", "--out", tmp_path)

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("quickstart_step_10.png", "quickstart_step_100.png", "training_progress.png"),
    }
    for name in names:
        made, there = pixels(tmp_path / name), pixels(IMAGES / name)
        assert made.shape == there.shape
        assert np.abs(made - there).mean() < MAX_DIFFERENCE


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not here")
def test_the_page_is_photographed(tmp_path: Path) -> None:
    make("page_picture.py", "--out", tmp_path / "page.png", "--steps", "10")

    found = pixels(tmp_path / "page.png")
    assert found.shape == pixels(IMAGES / "page.png").shape
    # Two runs, each with a line of its colour.
    for colour in colours("--run-0", "--run-1"):
        assert (found == colour).all(-1).any()


def test_the_readme_says_of_which_training_its_picture_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert f"after {DEFAULT_STEPS} steps](docs/images/attention.png)" in readme
    assert f"`trackside_demo/run/step_{DEFAULT_STEPS}/decoder_layer1_self_attn_heads.png`" in readme


def test_every_picture_has_its_command() -> None:
    said = (ROOT / "examples" / "pictures.py").read_text(encoding="utf-8")

    assert [path.name for path in IMAGES.iterdir() if path.name not in said] == []
