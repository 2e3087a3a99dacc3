"""Section ``[alerts]`` of the settings, which is also the list of all rules that there are."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from tracksided.alerts.attention_entropy_collapse import AttentionEntropyCollapse
from tracksided.alerts.attention_logit_growth import AttentionLogitGrowth
from tracksided.alerts.averaging_failed import AveragingFailed
from tracksided.alerts.clip_rate import ClipRate
from tracksided.alerts.dropped_samples import DroppedSamples
from tracksided.alerts.finding import HostRule, StepRule
from tracksided.alerts.gpu_error import GpuError
from tracksided.alerts.gpu_temperature import GpuTemperature
from tracksided.alerts.gpu_underused import GpuUnderused
from tracksided.alerts.gradient_explosion import GradientExplosion
from tracksided.alerts.gradient_vanishing import GradientVanishing
from tracksided.alerts.gradient_volatility import GradientVolatility
from tracksided.alerts.loss_divergence import LossDivergence
from tracksided.alerts.loss_spike import LossSpike
from tracksided.alerts.loss_stagnation import LossStagnation
from tracksided.alerts.memory_growth import MemoryGrowth
from tracksided.alerts.memory_pressure import MemoryPressure
from tracksided.alerts.nonfinite import Nonfinite
from tracksided.alerts.ranks_out_of_sync import RanksOutOfSync
from tracksided.alerts.stalled_trainer import StalledTrainer
from tracksided.alerts.straggler import Straggler
from tracksided.errors import SettingsError
from tracksided.observations import MEMORY_STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """Section ``[alerts]``; each rule has a table of its own in it, ``[alerts.<rule>]``."""

    enabled: bool = True
    """Whether any rule looks at all."""

    cooldown_seconds: float = 300.0
    """How long a rule finds nothing until it may raise an alert again."""

    clear_after: int = 10
    """Looks in a row without a finding that this takes besides."""

    apprise: tuple[str, ...] = ()
    """URLs of Apprise to which every alert is sent."""

    command: tuple[str, ...] = ()
    """Program and arguments that get every alert as JSON on standard input; none by default."""

    command_seconds: float = 30.0
    """After which the command is killed."""

    nonfinite: Nonfinite = field(default_factory=Nonfinite)
    gradient_explosion: GradientExplosion = field(default_factory=GradientExplosion)
    clip_rate: ClipRate = field(default_factory=ClipRate)
    gradient_vanishing: GradientVanishing = field(default_factory=GradientVanishing)
    gradient_volatility: GradientVolatility = field(default_factory=GradientVolatility)
    loss_spike: LossSpike = field(default_factory=LossSpike)
    loss_divergence: LossDivergence = field(default_factory=LossDivergence)
    loss_stagnation: LossStagnation = field(default_factory=LossStagnation)
    attention_entropy_collapse: AttentionEntropyCollapse = field(
        default_factory=AttentionEntropyCollapse
    )
    attention_logit_growth: AttentionLogitGrowth = field(default_factory=AttentionLogitGrowth)
    straggler: Straggler = field(default_factory=Straggler)
    ranks_out_of_sync: RanksOutOfSync = field(default_factory=RanksOutOfSync)
    dropped_samples: DroppedSamples = field(default_factory=DroppedSamples)
    memory_growth: MemoryGrowth = field(default_factory=MemoryGrowth)
    memory_pressure: MemoryPressure = field(default_factory=MemoryPressure)
    gpu_temperature: GpuTemperature = field(default_factory=GpuTemperature)
    gpu_underused: GpuUnderused = field(default_factory=GpuUnderused)
    gpu_error: GpuError = field(default_factory=GpuError)
    stalled_trainer: StalledTrainer = field(default_factory=StalledTrainer)
    averaging_failed: AveragingFailed = field(default_factory=AveragingFailed)

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.cooldown_seconds < 0 or self.clear_after < 1:
            raise SettingsError(
                f"alerts.cooldown_seconds is {self.cooldown_seconds}, alerts.clear_after "
                f"{self.clear_after}; expected numbers from 0 and from 1 on"
            )
        if not self.command_seconds > 0:
            raise SettingsError(
                f"alerts.command_seconds is {self.command_seconds}, expected a number above 0"
            )
        for rule in (*self.step_rules, *self.host_rules, *self.event_rules):
            _check(rule)

    @property
    def step_rules(self) -> tuple[StepRule, ...]:
        """Rules that look at every sampled step, in the order in which they are asked."""
        return (
            self.nonfinite,
            self.gradient_explosion,
            self.clip_rate,
            self.gradient_vanishing,
            self.gradient_volatility,
            self.loss_spike,
            self.loss_divergence,
            self.loss_stagnation,
            self.attention_entropy_collapse,
            self.attention_logit_growth,
            self.straggler,
            self.ranks_out_of_sync,
            self.dropped_samples,
        )

    @property
    def host_rules(self) -> tuple[HostRule, ...]:
        """Rules that look at every reading of the machine."""
        return (
            self.memory_growth,
            self.memory_pressure,
            self.gpu_temperature,
            self.gpu_underused,
            self.gpu_error,
        )

    @property
    def event_rules(self) -> tuple[StalledTrainer, AveragingFailed]:
        """Rules that are asked when there is something to ask them about."""
        return (self.stalled_trainer, self.averaging_failed)


def _check(rule: Any) -> None:
    """Refuse settings of a rule that cannot work, by name."""
    for item in fields(rule):
        value = getattr(rule, item.name)
        where = f"alerts.{rule.name}.{item.name} is {value}"
        if isinstance(value, bool):
            continue
        if not 0 < value < math.inf:
            raise SettingsError(f"{where}, expected a number above 0")
        if item.name.endswith(("_steps", "_readings")) and value > MEMORY_STEPS:
            raise SettingsError(f"{where}; rules look back {MEMORY_STEPS} samples at most")
