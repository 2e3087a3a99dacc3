"""`trackside alerts test`: send a test alert through every channel."""

import sys
import time
from pathlib import Path

import click

from tracksided.channels.service import AlertSender
from tracksided.config import load_settings
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
    """Send a test alert through every configured channel; exit code 1 if one fails.

    The channels are `apprise` and `command` in the section [alerts] of the settings.
    """
    settings = load_settings(config, Path.home()).alerts
    if not (settings.apprise or settings.command):
        click.echo("no channel is configured: set apprise or command in [alerts]", err=True)
        sys.exit(1)
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
