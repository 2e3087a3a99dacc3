"""Texts that others chose, such as names of files, on their way to a terminal or a log."""

import logging
from typing import Any


def printable(message: str) -> str:
    """Escape what a terminal would obey, or cannot show, such as newlines in file names.

    Args:
        message: of one line.
    """
    if message.isprintable():
        return message
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in message
    )


def log_to_stderr(level: int, source: str) -> None:
    """Let this process log to standard error; a message is one line.

    Args:
        level: the lowest that is logged.
        source: what stands between level and message: a field of `logging.Formatter`, or a name.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter(f"%(asctime)s %(levelname)s {source}: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _PrintableFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\n".join(map(printable, super().formatException(ei).split("\n")))
