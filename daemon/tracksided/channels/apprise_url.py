"""Sends an alert to an Apprise URL. The only file that knows Apprise."""

import io
import logging
from collections.abc import Mapping
from typing import Any

from tracksided.channels.outcome import Outcome, url_title

MISSING = (
    "the package apprise is missing: pip install 'trackside[alerts]', "
    "or in a clone of trackside pip install '.[alerts]'"
)


def send(url: str, alert: Mapping[str, Any]) -> Outcome:
    """Send an alert as title and text; Apprise's own time-outs apply.

    Args:
        url: such as ``slack://TOKEN``.
        alert: as in ``alerts.jsonl``.
    """
    title = url_title(url)
    try:
        import apprise  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError:
        return Outcome(title, MISSING)
    kinds = {"warning": apprise.NotifyType.WARNING, "critical": apprise.NotifyType.FAILURE}
    sender = apprise.Apprise()
    capture: Any = apprise.LogCapture
    with capture(level=logging.WARNING, fmt="%(message)s") as log:
        is_known = sender.add(url)
        is_sent = is_known and sender.notify(
            title=subject(alert),
            body=text(alert),
            notify_type=kinds.get(alert["severity"], apprise.NotifyType.INFO),
        )
        reason = _last_line(log)
    if is_sent:
        return Outcome(title, None)
    if not is_known:
        return Outcome(
            title, "not sent: Apprise does not know such a URL; see its list of services"
        )
    return Outcome(title, "not sent: " + (reason.replace(url, "URL") or "Apprise gave no reason"))


def subject(alert: Mapping[str, Any]) -> str:
    """Return one line that says which run and what."""
    return f"trackside: {alert['severity']} {alert['rule']} in run {alert['run']}"


def text(alert: Mapping[str, Any]) -> str:
    """Return what was found, where, and what to do."""
    places = [f"{key} {alert[key]}" for key in ("step", "rank") if alert[key] is not None]
    where = f"\n({', '.join(places)})" if places else ""
    return f"{alert['message']}{where}\n\n{alert['advice']}"


def _last_line(log: io.StringIO) -> str:
    lines = log.getvalue().strip().splitlines()
    return lines[-1] if lines else ""
