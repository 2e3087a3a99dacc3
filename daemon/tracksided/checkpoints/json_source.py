"""JSON files beside and in checkpoints, which anybody may have written."""

import json

from tracksided.checkpoints.source import SourceFile


def read_json(source: SourceFile, max_bytes: int) -> object:
    """Read a whole file.

    Raises:
        SourceRefused: it is longer, cannot be read, or is no JSON.
    """
    return parse_json(source, source.read_whole(max_bytes))


def parse_json(source: SourceFile, content: bytes) -> object:
    """Parse what was read of a file; it may nest too deep, or hold numbers too long, for Python.

    Raises:
        SourceRefused: it is no JSON.
    """
    try:
        parsed: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise source.refusal(f"is no complete JSON: {error}") from error
    return parsed
