"""The documentation as a site: everything is in it, and every link leads somewhere."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from claimed_lines import SITE, lines_of
from documents import ROOT
from made import Copy

import trackside
from trackside.config import EmitterConfig
from tracksided.alerts.catalog import AlertSettings
from tracksided.catalog import (
    ATTENTION_STATISTICS,
    PARAMETER_STATISTICS,
    RENDERERS,
    RUN_RENDERERS,
)
from tracksided.cli.group import COMMANDS
from tracksided.config import Settings

pytestmark = pytest.mark.integration
# Asks each command for its help, in lines as long as those of the page. In a process of its own:
# a command remembers the first help option that it was asked for.
ASK = """
import json, sys
from click.testing import CliRunner
from tracksided.cli.group import group
wide = {"terminal_width": 88, "max_content_width": 88, "prog_name": "trackside"}
asked = [CliRunner().invoke(group, [*words.split(), "--help"], **wide) for words in sys.argv[1:]]
print(json.dumps([each.output for each in asked]))
"""
TYPES = "true or false|whole number|number|text|list of texts"


class _Page(HTMLParser):
    """What can be linked to in a page, what it links to, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.paragraphs = [""]
        """The text of each paragraph, without the code in it."""

        self._code_depth = 0
        self._is_in_paragraph = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code_depth += tag in {"pre", "code"}
        if tag == "p":
            self._is_in_paragraph = True
            self.paragraphs.append("")
        for name, value in attrs:
            if value and name in {"id", "name"}:
                self.anchors.add(value)
            elif value and name in {"href", "src"}:
                self.links.add(value)

    def handle_endtag(self, tag: str) -> None:
        self._code_depth -= tag in {"pre", "code"}
        self._is_in_paragraph &= tag != "p"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._is_in_paragraph and self._code_depth == 0:
            self.paragraphs[-1] += data


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = ["mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(site)]
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (line,) = {line.text for line in lines_of(SITE)}
    copy = Copy.make(tmp_path_factory.mktemp("site") / "trackside")
    copy.type(line)
    return copy.directory / "build" / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> Mapping[Path, _Page]:
    return {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def reference(pages: Mapping[Path, _Page], name: str) -> Iterator[_Page]:
    return (page for path, page in pages.items() if path.parts[-3:-1] == ("reference", name))


def test_every_page_of_the_repository_is_in_the_site_and_in_its_navigation(
    site: Path, pages: Mapping[Path, _Page]
) -> None:
    home = pages[site / "index.html"]
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}

    for source in sources:
        address = "./" if source.name == "index.md" else f"{source.with_suffix('').as_posix()}/"
        assert site / address / "index.html" in pages
        assert address in home.links


def test_no_link_is_dead(site: Path, pages: Mapping[Path, _Page]) -> None:
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            is_there = target.is_file()
            if is_there and parts.fragment and target in pages:
                is_there = unquote(parts.fragment) in pages[target].anchors
            if not is_there:
                dead.append(f"{path.relative_to(site)}: {link}")

    assert len(pages) > 40
    assert dead == []


# Rows of a table and entries of a list that became lines of text.
LOST = re.compile(r"^ *(?:\|.*\|$|[-*+] |\d+\. ).*", re.MULTILINE)


def lost(page: _Page) -> list[str]:
    return [line for text in page.paragraphs for line in LOST.findall(text)]


def test_no_table_and_no_list_is_left_as_text(pages: Mapping[Path, _Page]) -> None:
    found = {str(path): lost(page) for path, page in pages.items()}

    assert {path: lines for path, lines in found.items() if lines} == {}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?:[^\"> ]+)")

    found = [loaded.findall(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")]

    assert [urls for urls in found if urls] == []


@pytest.mark.parametrize("name", trackside.__all__)
def test_every_public_name_has_its_reference(pages: Mapping[Path, _Page], name: str) -> None:
    anchors = {anchor for page in pages.values() for anchor in page.anchors}

    home = getattr(getattr(trackside, name), "__module__", "trackside")
    assert {f"trackside.{name}", f"{home}.{name}"} & anchors


def test_every_method_of_a_session_has_its_reference(pages: Mapping[Path, _Page]) -> None:
    anchors = {anchor for page in pages.values() for anchor in page.anchors}

    public = [name for name in vars(trackside.Session) if not name.startswith("_")]
    assert len(public) > 10
    missing = [name for name in public if f"trackside.Session.{name}" not in anchors]
    assert missing == ["recorder_type"]  # a part, for the package's own kinds of sessions


def sections(document: Mapping[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Return the tables of a TOML document by their paths, each with its own keys."""
    below = {key: value for key, value in document.items() if isinstance(value, dict)}
    found = {path: {key: value for key, value in document.items() if key not in below}}
    for key, value in below.items():
        found |= sections(value, f"{path}.{key}".lstrip("."))
    return found


def test_every_setting_stands_with_its_variable(pages: Mapping[Path, _Page]) -> None:
    (page,) = reference(pages, "settings")

    for name in EmitterConfig.__dataclass_fields__:
        assert f"TRACKSIDE_{name.upper()}" in page.text
    text = " ".join(page.text.split())
    for section, keys in sections(asdict(Settings())).items():
        assert not section or f"[{section}]" in text
        for key, value in keys.items():
            shown = json.dumps(list(value) if isinstance(value, tuple) else value)
            row = rf"\b{key} (?:{TYPES}) {re.escape(shown)} "
            assert re.search(row, text), row


@pytest.mark.parametrize("variable", ["TRACKSIDE", "TRACKSIDE_SHM_DIR"])
def test_a_variable_without_a_keyword_has_its_row(
    pages: Mapping[Path, _Page], variable: str
) -> None:
    (page,) = reference(pages, "settings")

    assert re.search(rf"^{variable}$", page.text, re.MULTILINE)


def test_every_command_says_its_options(pages: Mapping[Path, _Page]) -> None:
    (page,) = reference(pages, "commands")

    done = subprocess.run(
        [sys.executable, "-c", ASK, "", *COMMANDS, "service install"],
        capture_output=True,
        text=True,
        check=True,
    )
    for said in json.loads(done.stdout):
        assert said.startswith("Usage: trackside ")
        assert said in page.text
    assert "--num-checkpoints" in page.text
    assert "Usage: trackside service install" in page.text


def test_every_plug_in_is_listed(pages: Mapping[Path, _Page]) -> None:
    (page,) = reference(pages, "plugins")

    alerts = AlertSettings()
    rules = (*alerts.step_rules, *alerts.host_rules, *alerts.event_rules)
    drawn = (*RENDERERS, *RUN_RENDERERS)
    for plugin in (*ATTENTION_STATISTICS, *PARAMETER_STATISTICS, *drawn, *rules):
        assert plugin.name in page.text


def small_site(directory: Path, pages: Mapping[str, str], more: str = "") -> Path:
    """Make a site of other pages that is as strict as the real one; return its settings."""
    (directory / "docs").mkdir()
    for name, text in pages.items():
        (directory / "docs" / name).write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    real = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    strictness = real[real.index("validation:") : real.index("markdown_extensions:")]
    config = directory / "mkdocs.yml"
    config.write_text(f"site_name: small\n{strictness}{more}", encoding="utf-8")
    return config


@pytest.mark.parametrize(
    "broken",
    [
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |",
        "any of these:\n- one\n- two",
        "in this order:\n1. one\n2. two",
    ],
)
def test_a_row_or_a_list_that_became_text_is_noticed(tmp_path: Path, broken: str) -> None:
    config = small_site(tmp_path, {"index.md": broken}, "markdown_extensions: [tables]\n")

    assert build(config, tmp_path / "site").returncode == 0

    page = _Page((tmp_path / "site" / "index.html").read_text(encoding="utf-8"))
    assert len(lost(page)) == 1 + ("two" in broken)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("[nowhere](nowhere.md)", "nowhere.md"),
        ("[no such heading](#nowhere)", "#nowhere"),
        ("[no such file](../nowhere.py)", "nowhere.py"),
    ],
)
def test_a_dead_link_fails_the_build(tmp_path: Path, broken: str, complaint: str) -> None:
    config = small_site(tmp_path, {"index.md": broken})

    done = build(config, tmp_path / "site")

    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_page_outside_of_the_navigation_fails_the_build(tmp_path: Path) -> None:
    config = small_site(tmp_path, {"index.md": "", "forgotten.md": ""}, "nav: [index.md]\n")

    done = build(config, tmp_path / "site")

    assert done.returncode != 0
    assert "forgotten.md" in done.stderr
