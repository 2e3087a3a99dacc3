"""Runs for the page to show, and what a browser shows of them."""

import re
import shutil
from pathlib import Path
from typing import Any

from web_site import WebSite, append, make_line, make_run

from tracksided.web.served import run_key

DOCS = Path(__file__).parents[2] / "docs"
PICTURE = DOCS / "images/attention.png"


def add_run(site: WebSite, name: str, *, start: bool = False) -> str:
    directory = site.run_directory(name)
    append(directory / "history.jsonl", *(make_line(name, step) for step in range(1, 21)))
    folder = directory / "step_20"
    folder.mkdir()
    for layer in range(3):
        shutil.copy(PICTURE, folder / f"decoder_layer{layer}_self_attn.png")
    if start:
        site.write_status(make_run(name, directory))
        site.start()
    return run_key(name, directory)


def loss_readout(page: Any) -> Any:
    return page.locator("#chart-loss .readout")


def wait_for_text(locator: Any, pattern: str) -> None:
    locator.filter(has_text=re.compile(pattern)).wait_for()
