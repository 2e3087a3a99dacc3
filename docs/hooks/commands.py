"""The page of all commands: what each says of itself with ``--help``."""

from collections.abc import Iterator

import click

from tracksided.cli.group import group

WIDTH = 88  # characters; the page's code blocks hold that much
_HEAD = """# Commands

What each command says with `--help`; made from the commands when this site is built.
"""


def commands_page() -> str:
    """Return the page in Markdown."""
    return _HEAD + "\n".join(_sections(group, None, "trackside"))


def _sections(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    """Yield the section of a command, then those of its subcommands."""
    context = click.Context(
        command,
        parent=parent,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None and not found.hidden:
                yield from _sections(found, context, below)
