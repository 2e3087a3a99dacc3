"""From findings to alerts: one cause is one alert.

States of a rule, for each rank on its own:

======== ================================= ========================================= =========
state    on a finding                      on a clean look                           is active
======== ================================= ========================================= =========
quiet    raised, **alert**                 quiet                                     no
raised   raised; **alert** if more severe  cooling                                   yes
cooling  raised; **alert** if more severe  quiet after enough clean looks in a row   yes
                                           and enough time since the last finding
======== ================================= ========================================= =========
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tracksided.alerts.finding import Finding
from tracksided.reports import Alert, Severity

Key = tuple[str, int | None]
"""Name of the rule, and the rank."""

_ORDER: tuple[Severity, ...] = ("warning", "critical")


class Phase(enum.Enum):
    """Where a rule stands; see the table of this file. What is quiet is not kept."""

    RAISED = "raised"
    COOLING = "cooling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One rule, or one rank of it, that is not quiet."""

    alert: Alert
    """The newest that was raised."""

    phase: Phase
    last_found: float
    """Unix seconds."""

    num_clean: int = 0
    """Clean looks in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Where and when a look took place: what a finding lacks to be an alert."""

    run: str
    step: int | None
    timestamp: float
    """Unix seconds."""

    clear_after: int | None = None
    """Clean looks of this kind in a row that make quiet; None: as many as of the others."""

    def make(self, rule: str, finding: Finding) -> Alert:
        """Make the alert of a finding."""
        return Alert(
            rule=rule,
            severity=finding.severity,
            run=self.run,
            step=self.step,
            rank=finding.rank,
            value=finding.value,
            threshold=finding.threshold,
            message=finding.message,
            advice=finding.advice,
            timestamp=self.timestamp,
        )


class AlertDesk:
    """Remembers what is raised. It has no clock: time is handed to it. One thread."""

    def __init__(self, *, cooldown_s: float = 0.0, clear_after: int = 1) -> None:
        """Begin with everything quiet."""
        self.cooldown_s = cooldown_s
        """Time without a finding until a rule is quiet again."""

        self.clear_after = clear_after
        """Clean looks in a row that this takes besides."""

        self._standings: dict[Key, Standing] = {}

    @property
    def active(self) -> tuple[Standing, ...]:
        """All that is not quiet, in the order in which it was raised."""
        return tuple(self._standings.values())

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take up alerts that were raised before this daemon began, oldest first."""
        for alert in alerts:
            self._raise((alert.rule, alert.rank), alert)

    def adopt(self, known: Iterable[Alert]) -> None:
        """Bring what the steps seen again say into line with what was really raised.

        A rule that found something then, and never raised an alert, may raise one now; one that
        did goes on with that alert.
        """
        newest = {(alert.rule, alert.rank): alert for alert in known}
        self._standings = {
            key: replace(standing, alert=newest[key])
            for key, standing in self._standings.items()
            if key in newest
        }

    def forget(self, rules: Iterable[str]) -> None:
        """Make rules quiet: what they saw belongs to a try that was abandoned."""
        wanted = frozenset(rules)
        self._standings = {
            key: standing for key, standing in self._standings.items() if key[0] not in wanted
        }

    def take(self, rule: str, finding: Finding | None, look: Look) -> Alert | None:
        """Take in what a rule says at one look; return an alert if it is a new cause."""
        now = look.timestamp
        found = None if finding is None else (rule, finding.rank)
        for key in [key for key in self._standings if key[0] == rule and key != found]:
            self._cool(key, now, look.clear_after or self.clear_after)
        if finding is None or found is None:
            return None
        standing = self._standings.get(found)
        if standing is not None and not _is_worse(finding.severity, standing.alert.severity):
            self._standings[found] = replace(
                standing, phase=Phase.RAISED, last_found=now, num_clean=0
            )
            return None
        alert = look.make(rule, finding)
        self._raise(found, alert)
        return alert

    def _raise(self, key: Key, alert: Alert) -> None:
        self._standings.pop(key, None)  # a worse one goes to the end of the order
        self._standings[key] = Standing(alert=alert, phase=Phase.RAISED, last_found=alert.timestamp)

    def _cool(self, key: Key, now: float, clear_after: int) -> None:
        standing = self._standings[key]
        num_clean = standing.num_clean + 1
        # A clock that was set back must not keep a rule raised for good: it counts from there on.
        last_found = min(standing.last_found, now)
        if num_clean >= clear_after and now - last_found >= self.cooldown_s:
            del self._standings[key]
            return
        self._standings[key] = replace(
            standing, phase=Phase.COOLING, last_found=last_found, num_clean=num_clean
        )


def _is_worse(severity: Severity, known: Severity) -> bool:
    return _ORDER.index(severity) > _ORDER.index(known)
