"""Every text in the source that a user may read, with its placeholders."""

import ast
import functools
import re
from collections.abc import Iterator

from documents import ROOT

GAP = "\0"
_PERCENT = re.compile(r"%[-.\d]*[sdrgf]")


def is_said(message: str) -> bool:
    """Whether one text of the source reads like this; ``...`` stands for a placeholder."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    wanted = re.compile(f"[^{GAP}]*{GAP}.*?".join(parts), re.DOTALL)
    return any(wanted.search(text) for text in _texts())


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
