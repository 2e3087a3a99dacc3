"""Names out of files, in messages: one line, no control codes, never long."""

MAX_SHOWN_CHARACTERS = 100  # a terminal's line; module paths are shorter


def shown(name: str) -> str:
    """Quote a name as `repr` does, so that no control code reaches a terminal, and cut it.

    Args:
        name: of a tensor, key, class or file, as somebody else's file has it.
    """
    if len(name) <= MAX_SHOWN_CHARACTERS:
        return repr(name)
    return repr(name[:MAX_SHOWN_CHARACTERS] + "...")


def unquoted(name: str) -> str:
    """Write a name as `shown` does, without its quotes: where a list of names stands.

    Args:
        name: as in `shown`.
    """
    return shown(name)[1:-1]
