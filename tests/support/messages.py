"""Every text in the source that a user may read, with its placeholders."""

import ast
import functools
import re
from collections.abc import Iterator

from documents import ROOT

GAP = "\0"
MIN_WORDS = 2  # with fewer nearly everything is an example of a text
_WORD = re.compile(r"[a-z]{2,}")
_PERCENT = re.compile(r"%[-.\d]*[sdrgf]")


def is_said(message: str) -> bool:
    """Whether one text of the source reads like this; ``...`` stands for a placeholder."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    wanted = re.compile(f"[^{GAP}]*{GAP}.*?".join(parts), re.DOTALL)
    return any(wanted.search(text) for text in _texts())


def is_example(message: str) -> bool:
    """Whether one text of the source reads like this with its placeholders filled in."""
    return any(pattern.fullmatch(message) for pattern in _patterns())


@functools.cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Return an expression for each text that has words of its own."""
    worded = [text for text in _texts() if len(_WORD.findall(text)) >= MIN_WORDS]
    return tuple(re.compile(".+".join(map(re.escape, text.split(GAP)))) for text in worded)


@functools.cache
def _texts() -> tuple[str, ...]:
    found: list[str] = []
    for root in ("emitter", "daemon"):
        for path in (ROOT / root).rglob("*.py"):
            found.extend(_texts_of(ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(found)


def _texts_of(tree: ast.Module) -> Iterator[str]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _PERCENT.sub(GAP, node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else GAP for v in node.values)
            yield "".join(map(str, parts))
