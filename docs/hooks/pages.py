"""MkDocs hooks: pages that are made when the site is built, and links that leave ``docs``.

Nothing that is made here is committed: a page of the repository's root is shown as it stands
there, a reference comes from the code, and a link to a file of the repository leads to a page
that shows the file.
"""

from collections.abc import Mapping
from pathlib import Path

from commands import commands_page
from links import SourceFile, linked_files, rewrite
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from navigation import expanded
from plugins import plugin_page
from pygments.formatters import HtmlFormatter
from settings import settings_page

ROOT = Path(__file__).parents[2]
ROOT_PAGES: Mapping[str, str] = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
MADE_FILES = {
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
    "reference/plugins.md": plugin_page,
    "hooks/code.css": lambda: str(HtmlFormatter().get_style_defs(".highlight")),
}
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".json": "json", ".sh": "sh"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace patterns in the navigation."""
    config.nav = expanded(config.nav or [], Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: root pages, references, and the files that pages link to."""
    for name, uri in ROOT_PAGES.items():
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=content))
    for uri, make in MADE_FILES.items():
        files.append(File.generated(config, uri, content=make()))
    sources: dict[str, SourceFile] = {}
    for file in files.documentation_pages():
        for found in linked_files(file.content_string, _origin(file.src_uri), ROOT, _uris()):
            sources[found.uri] = found
    for found in sources.values():
        files.append(File.generated(config, found.uri, content=_source_page(found)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    del config, files
    uri = page.file.src_uri
    return rewrite(markdown, _origin(uri), uri, ROOT, _uris(), show=_fence)


def _uris() -> Mapping[str, str]:
    """Return which page of the site shows a file of the repository, where it is not a source."""
    pages = (ROOT / "docs").rglob("*")
    own = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs") for path in pages}
    return {name: uri.as_posix() for name, uri in own.items()} | dict(ROOT_PAGES)


def _origin(uri: str) -> str:
    """Return the path in the repository of what a page was made of."""
    by_uri = {page: name for name, page in ROOT_PAGES.items()}
    return by_uri.get(uri, f"docs/{uri}")


def _source_page(source: SourceFile) -> str:
    return f"# {source.path}\n\n{_fence(source)}\n"


def _fence(source: SourceFile) -> str:
    text = (ROOT / source.path).read_text(encoding="utf-8").rstrip()
    language = LANGUAGES.get(Path(source.path).suffix, "text")
    return f"````{language}\n{text}\n````"
