"""`examples/gallery.py` as a user runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tracksided.catalog import RENDERERS, RUN_RENDERERS

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[3] / "examples" / "gallery.py"
GALLERY = Path(__file__).parents[3] / "docs" / "gallery"
LIMIT_BYTES = 700 << 10  # what a clone should carry for it


def test_the_gallery_is_made_by_one_command(tmp_path: Path, shm_dir: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--out", str(tmp_path), "--steps", "24"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in GALLERY.iterdir()}
    with Image.open(tmp_path / "animation.png") as animation:
        assert animation.n_frames == 24
    assert list(shm_dir.glob("*.ring")) == []


def test_the_gallery_is_small() -> None:
    assert sum(path.stat().st_size for path in GALLERY.iterdir()) < LIMIT_BYTES


def test_the_page_shows_one_picture_of_each_kind() -> None:
    page = (GALLERY.parent / "gallery.md").read_text(encoding="utf-8")

    words = re.findall(r"^## .+: `(\w+)`$", page, re.MULTILINE)
    shown = re.findall(r"\(gallery/(\w+\.png)\)", page)

    assert sorted(words) == sorted(kind.name for kind in (*RENDERERS, *RUN_RENDERERS))
    assert len(shown) == len(words)
    assert set(shown) == {path.name for path in GALLERY.iterdir()}
