"""Values in tables of the texts that both sides send to TensorBoard, which reads Markdown."""

import re

MAX_CELL_CHARS = 200
# What Markdown would take for its own; an underscore within a word is none of it.
_MARKUP = re.compile(r"[\\`*|]|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])|(?<=\])\(")


def table_cell(text: str) -> str:
    """Return a text as one cell that shows it as it is, cut to `MAX_CELL_CHARS`."""
    text = text.replace("\n", " ")
    text = text if len(text) <= MAX_CELL_CHARS else f"{text[: MAX_CELL_CHARS - 3]}..."
    return _MARKUP.sub(lambda found: re.sub(r"(.)", r"\\\1", found[0]), text)
