"""The command group: names the subcommands, imports one only when it is used."""

import difflib
import importlib
import logging
from collections.abc import Mapping
from typing import Any

import click

from trackside.errors import TracksideError
from tracksided.errors import TracksidedError
from tracksided.printable import log_to_stderr, printable

COMMANDS: Mapping[str, tuple[str, str]] = {
    "alerts": ("tracksided.cli.alerts", "Try the channels to which alerts are sent."),
    "average": ("tracksided.cli.average", "Average checkpoints into one."),
    "daemon": ("tracksided.cli.daemon", "Serve all runs of this user on this node."),
    "demo": ("tracksided.cli.demo", "Train a small GPT and show everything trackside makes of it."),
    "doctor": ("tracksided.cli.doctor", "Look for what keeps telemetry from arriving."),
    "report": ("tracksided.cli.report", "Show how a training went, from what is on disk."),
    "run": ("tracksided.cli.run", "Run a command with a daemon beside it."),
    "service": ("tracksided.cli.service", "Install the daemon as a systemd service."),
    "status": ("tracksided.cli.status", "Show the daemon, runs, ranks, lag and drops."),
}


class LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all subcommands by name."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand, or None where there is none."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; name the nearest one where there is none of that name."""
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands from their one-line summaries."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; an error made for the user ends as one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except (TracksidedError, TracksideError) as error:
            lines = map(printable, str(error).split("\n"))
            raise click.ClickException("\n".join(lines)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trackside")
@click.option("-v", "--verbose", is_flag=True, help="Log at DEBUG level.")
def group(*, verbose: bool) -> None:
    """Telemetry for PyTorch training that never slows the train."""
    log_to_stderr(logging.DEBUG if verbose else logging.INFO, "%(name)s")
    # Drawing a font for the first time is no news to the user.
    for library in ("matplotlib", "aiobotocore", "botocore", "gcsfs", "google"):
        logging.getLogger(library).setLevel(logging.WARNING)
