"""Section ``[alerts]`` of the settings, which is also the list of all rules that there are."""

from dataclasses import dataclass, field

from tracksided.alerts.finding import StepRule
from tracksided.alerts.nonfinite import Nonfinite
from tracksided.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """Section ``[alerts]``; each rule has a table of its own in it, ``[alerts.<rule>]``."""

    enabled: bool = True
    """Whether any rule looks at all."""

    cooldown_seconds: float = 300.0
    """How long a rule finds nothing until it may raise an alert again."""

    clear_after: int = 10
    """Looks in a row without a finding that this takes besides."""

    nonfinite: Nonfinite = field(default_factory=Nonfinite)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.cooldown_seconds < 0 or self.clear_after < 1:
            raise SettingsError(
                f"alerts.cooldown_seconds is {self.cooldown_seconds}, alerts.clear_after "
                f"{self.clear_after}; expected numbers from 0 and from 1 on"
            )

    @property
    def step_rules(self) -> tuple[StepRule, ...]:
        """Rules that look at every sampled step, in the order in which they are asked."""
        return (self.nonfinite,)
