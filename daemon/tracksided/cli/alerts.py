"""`trackside alerts test`: send a test alert through every channel."""

import logging
import sys
import time
from pathlib import Path

import click

from tracksided.channels.service import AlertSender
from tracksided.config import default_config_paths, home_directory, load_settings
from tracksided.reports import Alert

POLL_S = 0.05


@click.group()
def command() -> None:
    """Try the channels to which alerts are sent."""


@command.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file instead of the default ones.",
)
def test(config: Path | None) -> None:
    """Send a test alert through every channel.

    The channels are `apprise` and `command` in the section [alerts] of the settings. Exit code 1
    if one of them fails, or there is none.
    """
    home = home_directory()
    settings = load_settings(config, home).alerts
    if not (settings.apprise or settings.command):
        file = config or default_config_paths(home)[-1]
        click.echo(
            f"no channel is configured: set apprise or command in [alerts] of {file}", err=True
        )
        sys.exit(1)
    logging.getLogger("tracksided.channels").setLevel(logging.ERROR)  # it is said below
    sender = AlertSender(settings)
    sender.tell(_test_alert(time.time()))
    try:
        while not (outcomes := sender.poll(time.monotonic())):
            time.sleep(POLL_S)
    finally:
        sender.close()
    for outcome in outcomes:
        click.echo(f"{outcome.channel}: {outcome.error or 'sent'}")
    sys.exit(1 if any(outcome.error for outcome in outcomes) else 0)


def _test_alert(now: float) -> Alert:
    return Alert(
        rule="test",
        severity="warning",
        run="none",
        step=None,
        rank=None,
        value=None,
        threshold=None,
        message="this is a test of trackside's alerts",
        advice="Nothing is wrong: `trackside alerts test` sent this.",
        timestamp=now,
    )
