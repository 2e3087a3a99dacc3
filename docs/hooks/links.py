"""Links between files of the repository, and what becomes of them in the site. Pure."""

import os.path
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
# A line that is one link to a file, and nothing else: the site shows the file below it.
_SHOWN = re.compile(r"\[[^\]]+\]\((?![a-z]+:|#|/)([^)\s#]+)\)")


@dataclass(frozen=True)
class SourceFile:
    """A file of the repository that has no page of its own but for its text."""

    path: str
    """In the repository."""

    @property
    def uri(self) -> str:
        """Of the page that shows it."""
        return f"source/{self.path}.md"


def linked_files(
    markdown: str, origin: str, root: Path, uris: Mapping[str, str]
) -> Iterator[SourceFile]:
    """Yield the files that a page links to and that are no pages.

    Args:
        markdown: text of the page.
        origin: the page's own path in the repository.
        root: of the repository.
        uris: path in the repository to the page that shows it.
    """
    for match in _LINK.finditer(markdown):
        path = _resolve(origin, match[1])
        if path not in uris and (root / path).is_file():
            yield SourceFile(path)


def rewrite(
    markdown: str,
    origin: str,
    uri: str,
    root: Path,
    uris: Mapping[str, str],
    *,
    show: Callable[[SourceFile], str],
) -> str:
    """Return the text of a page with links as the site needs them.

    What leads nowhere stays as it is, for MkDocs to complain about.

    Args:
        markdown: text of the page.
        origin: the page's own path in the repository.
        uri: of the page.
        root: of the repository.
        uris: path in the repository to the page that shows it.
        show: turns a file into what stands below a line that is a link to it.
    """

    def source(target: str) -> SourceFile | None:
        path = _resolve(origin, target)
        return SourceFile(path) if path not in uris and (root / path).is_file() else None

    def relink(match: re.Match[str]) -> str:
        found = source(match[1])
        page = uris.get(_resolve(origin, match[1])) if found is None else found.uri
        if page is None:
            return match[0]
        return os.path.relpath(page, PurePosixPath(uri).parent) + (match[2] or "")

    lines = []
    for line in markdown.split("\n"):
        lines.append(_LINK.sub(relink, line))
        alone = _SHOWN.fullmatch(line)
        found = None if alone is None else source(alone[1])
        if found is not None:
            lines += ["", show(found)]
    return "\n".join(lines)


def _resolve(origin: str, target: str) -> str:
    return os.path.normpath(PurePosixPath(origin).parent / target)
