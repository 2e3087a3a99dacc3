"""Every block of Python, TOML, JSON, YAML and INI in the pages is used as a reader would use it."""

import io
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from documents import ROOT, Block, blocks, pages
from torch import nn

import trackside
from trackside.session import _open_sessions
from trackside.wire import segment
from tracksided.config import parse_settings
from tracksided.service_units import units_directory

UNIT = "trackside@.service"
# A diff is applied by tests/integration/extending; lines of shell and of PromQL have a test of
# their own each; what is `text` is listed or quoted, and compared with what is there.
LANGUAGES = {
    "sh",
    "bash",
    "promql",
    "python",
    "toml",
    "json",
    "yaml",
    "ini",
    "diff",
    "dockerfile",
    "text",
}
# Also where no block is found by `documents.blocks`: in quotes and lists, of other characters.
FENCE = re.compile(r"^[ \t>*+-]*(?:```|~~~)", re.MULTILINE)
CODE_WITHOUT_A_FENCE = re.compile(r"\n\n(?: {4}|\t).*|<(?:pre|code|samp|kbd)\b", re.IGNORECASE)
LISTINGS = {"tree", "output", "diagram"}
pytestmark = pytest.mark.integration
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"
)


def of(language: str) -> list[Any]:
    """Return the blocks that are no files: those are run by the tests of the guides."""
    found = [block for block in blocks(language) if block.title is None]
    return [pytest.param(block, id=block.place) for block in found]


def _for_classic() -> dict[str, Any]:
    settings = {"attention_monitoring": {"enabled": True, "save_dir": "attention_logs"}}
    return {
        "loader": [(torch.ones(2, 4), None)],
        "compute_loss": lambda model, enc, _: model(enc).square().mean(),
        "file": io.StringIO(json.dumps(settings)),
    }


def _for_stages() -> dict[str, Any]:
    return {"dataset": {"ids": [[1, 2], [3]], "text": ["attention is", "all you need"]}}


def _for_a_resumed_training() -> dict[str, Any]:
    return {"state": {"step": 100, "epoch": 2}}


def _for_averaging() -> dict[str, Any]:
    Path("checkpoints").mkdir()
    for step in (100, 200, 300, 400):
        torch.save({"w": torch.full((4,), float(step))}, f"checkpoints/model_{step}.pt")
    return {}


# JSON that the daemon writes; tests/integration/docs/test_files_of_a_run.py reads it.
_WRITTEN = {block.place for block in blocks("json") if block.page == "docs/reference/files.md"}

# What a page takes for granted besides.
_PREPARED = {
    "docs/classic.md": _for_classic,
    "docs/how-to/pytorch.md": _for_a_resumed_training,
    "docs/reference/averaging.md": _for_averaging,
    "docs/stages.md": _for_stages,
}


@pytest.fixture
def names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shm_dir: Path
) -> Iterator[dict[str, Any]]:
    """What the reader of a block has already: a model, its optimizer, data, a loss."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKSIDE_AUTOSTART", "0")
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    yield {
        "trackside": trackside,
        "torch": torch,
        "json": json,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": model(torch.ones(2, 4)).mean(),
        "step": 1,
        "epoch": 1,
        "accuracy": 0.5,
    }
    for session in tuple(_open_sessions):  # a reader's script ends here
        session.close()
    for path in segment.scan(shm_dir):
        segment.remove(path)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert [block.place for block in blocks() if block.language not in LANGUAGES] == []


def test_no_block_is_overlooked() -> None:
    """Every fence is of a form that is found here, and no code is marked by its indent alone."""
    texts = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in pages()}
    found = blocks()

    for name, text in texts.items():
        assert len(FENCE.findall(text)) == 2 * sum(block.page == name for block in found), name
        between = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
        assert CODE_WITHOUT_A_FENCE.findall(between) == [], name


@pytest.mark.parametrize(
    "overlooked",
    ["~~~sh\n", "````sh\n", "> ```sh\n", "- ```sh\n", "```{.sh}\n"],
)
def test_a_fence_of_another_form_is_noticed(overlooked: str) -> None:
    assert FENCE.match(overlooked)


@pytest.mark.parametrize("code", ["\n\n    make\n", "\n\n\tmake\n", "<pre>make</pre>", "<CODE >"])
def test_code_without_a_fence_is_noticed(code: str) -> None:
    assert CODE_WITHOUT_A_FENCE.search(code)


def test_every_listing_says_what_it_lists() -> None:
    found = blocks("text")

    assert {block.title for block in found} == LISTINGS
    assert [block.place for block in blocks() if block.title in LISTINGS] == [
        block.place for block in found
    ]


def test_every_block_that_has_a_title_is_named_in_a_test() -> None:
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    titled = [block for block in blocks() if block.title is not None]

    assert len(titled) > 10
    for block in titled:
        named = [f'"{block.page}"' in text and f'"{block.title}"' in text for text in tests]
        assert any(named), block.place


@pytest.mark.parametrize("block", of("python"))
def test_python_runs(block: Block, names: dict[str, Any]) -> None:
    names |= _PREPARED.get(block.page, dict)()

    exec(compile(block.text, block.place, "exec"), names)  # noqa: S102 - the point


@pytest.mark.parametrize("block", of("toml"))
def test_toml_is_a_settings_file(block: Block) -> None:
    parse_settings([(block.place, tomllib.loads(block.text))])


@pytest.mark.parametrize("block", [block for block in of("json") if block.id not in _WRITTEN])
def test_json_is_taken(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKSIDE", "0")

    trackside.monitor_from_config(json.loads(block.text)).close()


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_a_document(block: Block) -> None:
    assert yaml.safe_load(block.text)


def verify_drop_in(directory: Path, text: str) -> str:
    """Return what systemd says of the shipped unit with a drop-in."""
    shutil.copy(units_directory() / UNIT, directory / UNIT)
    (directory / f"{UNIT}.d").mkdir()
    (directory / f"{UNIT}.d" / "override.conf").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--system", "verify", str(directory / UNIT)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


@needs_systemd
@pytest.mark.parametrize("block", of("ini"))
def test_a_drop_in_is_understood(block: Block, tmp_path: Path) -> None:
    assert verify_drop_in(tmp_path, block.text) == ""


@needs_systemd
def test_a_drop_in_with_a_misspelled_key_is_not(tmp_path: Path) -> None:
    assert "NoSuchKey" in verify_drop_in(tmp_path, "[Service]\nNoSuchKey=yes\n")
