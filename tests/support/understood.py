"""Whether a command line is one of `trackside`."""

import click

from tracksided.cli.group import group


def parse(arguments: list[str]) -> None:
    """Parse a command line down to its command, which is not run.

    Raises:
        click.UsageError: no such command or option.
        click.exceptions.Exit: it only asks for help or the version.
    """
    command: click.Command = group
    context = click.Context(group, info_name="trackside")
    rest = [word.strip("[]") for word in arguments]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context, info_name=name)
    if rest:  # a command that is only named, as in `trackside run`, has to exist
        command.make_context(command.name, rest, parent=context.parent)
