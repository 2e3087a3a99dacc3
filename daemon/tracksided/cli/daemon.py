"""`trackside daemon`: serve all runs of this user on this node."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from trackside.wire.segment import node_directory
from tracksided.app import Daemon
from tracksided.config import Settings, home_directory, load_settings
from tracksided.errors import DaemonRunning
from tracksided.lifecycle import ServiceNotifier, Signals
from tracksided.listen_address import DEFAULT
from tracksided.priority import become_idle, die_with

EXIT_ALREADY_RUNNING = 75  # EX_TEMPFAIL of sysexits.h: another daemon does the work


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file to read instead of /etc/trackside and ~/.config/trackside/daemon.toml.",
)
@click.option(
    "--idle-exit",
    "idle_exit_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End after so long without a run. Default: never.",
)
@click.option(
    "--http",
    is_flag=False,
    flag_value=DEFAULT,
    metavar="[HOST:PORT]",
    help=f"Serve the page and /metrics there, whatever the settings say. Without value: {DEFAULT}.",
)
@click.option("--low-priority", is_flag=True, help="Run only on cycles that nobody else wants.")
@click.option("--parent", type=int, hidden=True, help="End when this process does, or on SIGINT.")
def command(
    *,
    config_file: Path | None,
    idle_exit_s: float | None,
    http: str | None,
    low_priority: bool,
    parent: int | None,
) -> None:
    """Serve all runs and ranks of this user on this node.

    SIGTERM finishes what is published and ends within 10 seconds. SIGHUP reads the settings anew.
    """
    if low_priority:
        become_idle()
    signals = Signals(parent)
    if parent is not None:
        die_with(parent)
    try:
        daemon = Daemon(
            node_directory(os.environ),
            lambda: _settings(config_file, http),
            idle_exit_s=idle_exit_s,
        )
    except DaemonRunning as error:
        click.echo(f"trackside: {error}", err=True)
        sys.exit(EXIT_ALREADY_RUNNING)
    # The child of a command is not what a service manager has started.
    environ = os.environ if parent is None else {}
    sys.exit(daemon.run(signals, ServiceNotifier(environ)))


def _settings(config_file: Path | None, http: str | None) -> Settings:
    settings = load_settings(config_file, home_directory())
    if http is None:
        return settings
    return replace(settings, http=replace(settings.http, listen=http))
