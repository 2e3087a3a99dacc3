"""What each rule finds in series that are made for it, and what it leaves alone."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tracksided.alerts.attention_entropy_collapse import AttentionEntropyCollapse
from tracksided.alerts.attention_logit_growth import AttentionLogitGrowth
from tracksided.alerts.clip_rate import ClipRate
from tracksided.alerts.dropped_samples import DroppedSamples
from tracksided.alerts.finding import Finding, StepRule
from tracksided.alerts.gradient_explosion import GradientExplosion
from tracksided.alerts.gradient_vanishing import GradientVanishing
from tracksided.alerts.gradient_volatility import GradientVolatility
from tracksided.alerts.loss_divergence import LossDivergence
from tracksided.alerts.loss_spike import LossSpike
from tracksided.alerts.loss_stagnation import LossStagnation
from tracksided.alerts.nonfinite import Nonfinite
from tracksided.alerts.ranks_out_of_sync import RanksOutOfSync
from tracksided.alerts.straggler import Straggler
from tracksided.observations import AttentionObservation, Observation, RankObservation


def steps_of(field: str, values: Sequence[float], **others: Any) -> list[Observation]:
    return [
        Observation(step=n, timestamp=float(n), **{field: value}, **others)
        for n, value in enumerate(values, start=1)
    ]


def look(rule: StepRule, steps: Sequence[Observation]) -> Finding | None:
    return rule.check(steps[-1], tuple(steps[:-1]))


def looks(rule: StepRule, steps: Sequence[Observation]) -> list[Finding]:
    """Every finding of a rule that is asked at each step."""
    found = (look(rule, steps[:end]) for end in range(1, len(steps) + 1))
    return [finding for finding in found if finding is not None]


def noisy(count: int, sigma: float, seed: int = 0) -> list[float]:
    """Lognormal noise with median 1."""
    return list(np.exp(np.random.default_rng(seed).normal(0, sigma, count)))


NORM = "norm_before_clip"


@pytest.mark.parametrize(
    ("last", "severity"), [(4.9, None), (5.1, "warning"), (9.9, "warning"), (10.1, "critical")]
)
def test_norm_is_compared_with_five_and_ten_times_its_median(
    last: float, severity: str | None
) -> None:
    finding = look(GradientExplosion(), steps_of(NORM, [0.9, 1.0, 1.1] * 40 + [5.5, 5.5, last]))

    assert (finding and finding.severity) == severity
    if finding is not None:
        assert (finding.value, finding.threshold) == pytest.approx((last, 5.0))


def test_three_of_ten_far_above_are_an_explosion_two_are_not() -> None:
    norms = [1.0] * 40 + [6.0, 1.0, 1.0, 12.0, 1.0, 1.0, 1.0, 1.0, 1.0, 6.0]

    findings = looks(GradientExplosion(), steps_of(NORM, norms))

    assert [(finding.severity, finding.value) for finding in findings] == [
        ("warning", pytest.approx(6.0))
    ]


def test_a_burst_of_one_sample_looks_back_at_no_other() -> None:
    norms = [1.0] * 40 + [6.0, 1.0, 6.0, 1.0, 6.0]

    assert looks(GradientExplosion(burst_steps=1), steps_of(NORM, norms)) == []
    assert looks(GradientExplosion(burst_steps=5), steps_of(NORM, norms)) != []


@pytest.mark.parametrize(("last", "is_found"), [(29.0, False), (31.0, True)])
def test_one_sample_alone_has_to_be_farther_away(last: float, *, is_found: bool) -> None:
    norms = [1.0] * 40 + [6.0] + [1.0] * 8 + [6.0, last]  # the first is too long ago

    finding = look(GradientExplosion(), steps_of(NORM, norms))

    assert (finding is not None) == is_found


def test_peak_between_two_samples_is_seen() -> None:
    steps = steps_of(NORM, [1.0] * 40)
    steps[-1] = replace(steps[-1], norm_peak=40.0)

    finding = look(GradientExplosion(), steps)

    assert finding is not None
    assert finding.value == pytest.approx(40.0)


def test_norm_that_scatters_by_nature_gets_a_wider_limit() -> None:
    """With s = 0.6 of the logarithm the limit is exp(5 s) = 20 times the median."""
    norms = [*noisy(254, 0.6), 1e3, 1e3]  # the last ones keep the next company
    spread = 1.4826 * np.median(np.abs(np.log(norms) - np.median(np.log(norms))))
    limit = np.median(norms) * np.exp(5 * spread)

    assert look(GradientExplosion(), steps_of(NORM, [*norms, 0.99 * limit])) is None
    finding = look(GradientExplosion(), steps_of(NORM, [*norms, 1.01 * limit]))
    assert finding is not None
    assert finding.threshold == pytest.approx(limit, rel=1e-6)


def test_nothing_is_said_before_there_is_a_median() -> None:
    assert looks(GradientExplosion(), steps_of(NORM, [1.0] * 19 + [100.0])) == []


def test_clipping_that_never_rests_is_found() -> None:
    def steps(rate: float, norm: float) -> list[Observation]:
        return steps_of("clip_rate", [rate] * 100, norm_before_clip=norm, max_norm=1.0)

    finding = look(ClipRate(), steps(0.95, 8.0))
    assert finding is not None
    assert (finding.value, finding.threshold) == (pytest.approx(0.95), 0.9)
    assert look(ClipRate(), steps(0.85, 8.0)) is None
    assert look(ClipRate(), steps(1.0, 2.9)) is None  # loses less than two thirds
    assert look(ClipRate(), steps(0.95, 8.0)[:99]) is None
    assert look(ClipRate(), steps_of("clip_rate", [1.0] * 100)) is not None  # norms unknown


def test_small_gradient_without_progress_is_vanishing() -> None:
    def steps(losses: Sequence[float]) -> list[Observation]:
        return steps_of("loss", losses, norm_before_clip=0.009)

    finding = look(GradientVanishing(), steps([2.3] * 20))
    assert finding is not None
    assert (finding.value, finding.threshold) == (0.009, 0.01)
    assert look(GradientVanishing(), steps([2.3] * 19)) is None
    assert look(GradientVanishing(), steps(list(np.linspace(2.3, 2.0, 20)))) is None  # it learns
    assert look(GradientVanishing(), steps([2.3] * 20 + [0.1] * 20)) is None  # it has learnt
    assert look(GradientVanishing(), steps_of(NORM, [0.009] * 20)) is not None  # loss unknown
    assert look(GradientVanishing(), steps_of(NORM, [0.009] * 19 + [0.011])) is None


@pytest.mark.parametrize(("norm", "is_found"), [(0.9e-6, True), (1.1e-6, False)])
def test_small_loss_has_a_small_gradient(norm: float, *, is_found: bool) -> None:
    finding = look(GradientVanishing(), steps_of("loss", [1e-4] * 20, norm_before_clip=norm))

    assert (finding is not None) == is_found
    if finding is not None:
        assert finding.threshold == pytest.approx(1e-6)


def test_layer_without_gradient_is_found_among_others() -> None:
    def steps(norm: float, count: int = 20) -> list[Observation]:
        norms = {"h.0": 1.0, "h.1": norm, "h.2": 2.0, "head": 1.0}
        return [
            Observation(step=n, timestamp=n, norm_before_clip=1.0, layer_norms=norms)
            for n in range(1, count + 1)
        ]

    finding = look(GradientVanishing(), steps(0.0))
    assert finding is not None
    assert "h.1" in finding.message
    assert finding.threshold == pytest.approx(0.001)  # of the median, 1.0
    assert look(GradientVanishing(), steps(0.0, 19)) is None
    assert look(GradientVanishing(), steps(0.0011)) is None


def test_layer_that_gets_no_gradient_any_more_is_found() -> None:
    before = {"h.0": 1.0, "h.1": 1.0, "h.2": 1.0, "head": 1.0}
    after = {name: norm for name, norm in before.items() if name != "h.1"}
    steps = [
        Observation(step=n, timestamp=n, layer_norms=before if n <= 5 else after)
        for n in range(1, 26)
    ]

    assert looks(GradientVanishing(), steps[:24]) == []
    finding = look(GradientVanishing(), steps)
    assert finding is not None
    assert "h.1" in finding.message
    assert finding.value == 0.0


def test_swings_are_counted_in_both_directions() -> None:
    spikes = [1.0] * 15 + [10.0, 1.0, 10.0, 1.0]

    assert look(GradientVolatility(), steps_of(NORM, spikes)) is None  # four swings
    finding = look(GradientVolatility(), steps_of(NORM, [*spikes, 0.1]))
    assert finding is not None
    assert finding.value == 5.0


def test_loss_spike_is_far_above_what_the_noise_explains() -> None:
    losses = list(2.5 + np.random.default_rng(1).normal(0, 0.02, 64))

    assert look(LossSpike(), steps_of("loss", [*losses, 2.7])) is None  # below 1.1 times
    finding = look(LossSpike(), steps_of("loss", [*losses, 3.2]))
    assert finding is not None
    assert finding.severity == "warning"
    assert finding.threshold == pytest.approx(1.1 * np.median(losses))


def test_loss_ten_times_the_largest_is_critical() -> None:
    finding = look(LossSpike(), steps_of("loss", [1.0, 1.1, 0.9] * 10 + [11.1]))

    assert finding is not None
    assert finding.severity == "critical"


def test_losses_that_scatter_over_orders_of_magnitude_have_no_spikes() -> None:
    assert looks(LossSpike(), steps_of("loss", noisy(2000, 1.0))) == []


def test_loss_that_has_risen_and_stays_diverges() -> None:
    rng = np.random.default_rng(2)
    falling = list(np.linspace(4, 2, 100) + rng.normal(0, 0.05, 100))

    assert looks(LossDivergence(), steps_of("loss", falling)) == []
    assert looks(LossDivergence(), steps_of("loss", [*falling, 9.0, *falling[-16:]])) == []
    up = falling + [3.5] * 64
    first = looks(LossDivergence(), steps_of("loss", up))[0]
    assert first.severity == "critical"
    assert first.value == pytest.approx(3.5)
    # The oldest of three blocks of 16 has 3.5 for its median once it has 9 of them.
    assert looks(LossDivergence(), steps_of("loss", up[: 100 + 40])) == []
    assert look(LossDivergence(), steps_of("loss", up[: 100 + 41])) is not None


def test_loss_that_comes_back_does_not_diverge() -> None:
    """As after a change of the data, in a curriculum."""
    falling, back = np.linspace(4, 2, 100), 2 + 2 * np.exp(-np.arange(200) / 60)

    assert looks(LossDivergence(), steps_of("loss", [*falling, *back])) == []
    assert looks(LossDivergence(), steps_of("loss", [*falling, *back[::-1]])) != []


@pytest.mark.parametrize("divides", [False, True])
def test_loss_is_compared_with_what_it_was_at_such_a_learning_rate(*, divides: bool) -> None:
    """Three cycles of 100 samples, the learning rate falls from 1 to 0, and so does the loss."""
    rates = [*np.linspace(1, 0.001, 100)] * 3
    losses = [0.5 + rate for rate in rates]
    if divides:
        losses[-95:] = [3.0] * 95
    steps = [
        Observation(step=n, timestamp=n, loss=loss, learning_rate=rate)
        for n, (loss, rate) in enumerate(zip(losses, rates, strict=True), start=1)
    ]

    assert (looks(LossDivergence(), steps) != []) == divides


def test_loss_that_stands_still_stagnates() -> None:
    rng = np.random.default_rng(3)
    n = np.arange(1, 1201)
    still = 2.3 + rng.normal(0, 0.02, 400)
    falling = 1 + 2 * n**-0.3 + rng.normal(0, 0.02, n.size)  # a power of the steps

    assert look(LossStagnation(), steps_of("loss", list(still))) is not None
    assert look(LossStagnation(), steps_of("loss", list(still[:399]))) is None
    assert looks(LossStagnation(), steps_of("loss", list(falling))[::3]) == []


def attention_steps(field: str, *layers: Sequence[float]) -> list[Observation]:
    return [
        Observation(
            step=n,
            timestamp=float(n),
            attention=tuple(
                AttentionObservation(
                    stack="decoder", type="self_attention", layer=i, module="", **{field: value}
                )
                for i, value in enumerate(values)
            ),
        )
        for n, values in enumerate(zip(*layers, strict=True), start=1)
    ]


def test_entropy_collapse_of_one_layer_is_found_after_three_samples() -> None:
    """The figures of a tiny GPT at lr 3e-2: 0.02 where a healthy layer stays above 0.44."""
    healthy, collapsed = [0.9, 0.8, 0.6, 0.5, 0.5, 0.5], [0.9, 0.8, 0.6, 0.02, 0.03, 0.02]
    rule = AttentionEntropyCollapse()
    steps = attention_steps("normalized_entropy", healthy, collapsed)

    assert looks(rule, steps[:5]) == []
    finding = look(rule, steps)
    assert finding is not None
    assert "decoder layer 1" in finding.message
    assert finding.value == 0.02


def test_layer_that_is_sharp_by_design_has_not_collapsed() -> None:
    steps = attention_steps("normalized_entropy", [0.06, 0.05, 0.04, 0.05, 0.04, 0.05, 0.06, 0.05])

    assert looks(AttentionEntropyCollapse(), steps) == []


def test_logits_that_grow_are_found_and_large_ones_that_do_not_are_not() -> None:
    rule = AttentionLogitGrowth()

    finding = look(rule, attention_steps("max_logit", [5, 8, 20, 110, 120, 130], [1] * 6))
    assert finding is not None
    assert (finding.severity, finding.value, finding.threshold) == ("warning", 130.0, 100.0)
    assert looks(rule, attention_steps("max_logit", [150, 140, 150, 160, 150, 155, 150])) == []
    critical = look(rule, attention_steps("max_logit", [5, 8, 20, 1100, 1200, 1300]))
    assert critical is not None
    assert critical.severity == "critical"


def rank_steps(field: str, *ranks: Sequence[Any]) -> list[Observation]:
    return [
        Observation(
            step=n,
            timestamp=float(n),
            ranks=tuple(
                RankObservation(rank=rank, **{field: value})
                for rank, value in enumerate(values)
                if value is not None
            ),
        )
        for n, values in enumerate(zip(*ranks, strict=True), start=1)
    ]


def test_rank_that_is_slower_for_ten_samples_is_a_straggler() -> None:
    steps = rank_steps("step_seconds", [1.0] * 11, [1.4] * 11, [1.0] * 11)

    assert looks(Straggler(), steps[:9]) == []
    finding = look(Straggler(), steps)
    assert finding is not None
    assert finding.rank == 1
    assert finding.value == pytest.approx(1 / 1.4)
    assert looks(Straggler(), rank_steps("step_seconds", [1.0] * 11, [1.3] * 11)) == []
    assert looks(Straggler(), rank_steps("step_seconds", [1.0, 2.0] * 9, [2.0, 1.0] * 9)) == []
    assert looks(Straggler(), rank_steps("step_seconds", [1.0] * 19)) == []
    assert looks(Straggler(), rank_steps("step_seconds", [0.01] * 11, [0.055] * 11)) == []


def test_straggler_is_found_among_ranks_that_wait_for_it() -> None:
    steps = [
        Observation(
            step=n,
            timestamp=float(n),
            ranks=tuple(
                RankObservation(rank=rank, step_seconds=0.3, local_seconds=seconds)
                for rank, seconds in enumerate((0.1, 0.1, 0.25))
            ),
        )
        for n in range(1, 11)
    ]

    finding = look(Straggler(), steps)

    assert finding is not None
    assert finding.rank == 2
    assert finding.value == pytest.approx(0.1 / 0.25)


def test_ranks_that_were_equal_and_are_not_are_out_of_sync() -> None:
    rule = RanksOutOfSync()
    steps = rank_steps("weight_checksum", ["a", "b"], ["a", "x"], ["a", "b"])

    assert look(rule, steps[:1]) is None
    finding = look(rule, steps)
    assert finding is not None
    assert (finding.severity, finding.rank) == ("critical", 1)


def test_ranks_that_hold_different_parts_of_a_model_are_left_alone() -> None:
    """Tensor parallel over 0 and 1, replicated as 2 and 3."""
    parts = rank_steps("weight_checksum", ["a", "b"], ["x", "y"], ["a", "b"], ["x", "y"])

    assert looks(RanksOutOfSync(), parts) == []
    drifted = rank_steps("weight_checksum", ["a", "b"], ["x", "y"], ["a", "b"], ["x", "z"])
    finding = look(RanksOutOfSync(), drifted)
    assert finding is not None
    assert "rank 3 differ from those of rank 1" in finding.message
    assert finding.rank is None  # of two, nobody knows which is right


def test_checksum_that_is_not_known_says_nothing() -> None:
    steps = rank_steps("weight_checksum", ["a", None, "b"], ["a", None, None])

    assert looks(RanksOutOfSync(), steps) == []


def test_drops_are_counted_from_sample_to_sample() -> None:
    steps = rank_steps("dropped", [0, 0, 0, 2, 2], [3, 3, 4, 4, 1])

    values = [finding.value for finding in looks(DroppedSamples(), steps)]

    assert values == [3.0, 1.0, 2.0, 1.0]  # the last: a session that began anew


def test_norm_between_samples_that_is_not_finite_is_found() -> None:
    step = Observation(step=5, timestamp=5.0, loss=1.0, norm_before_clip=1.0, norm_peak=math.nan)

    assert Nonfinite().check(step, ()) is not None
    assert Nonfinite().check(replace(step, amp_scale=2.0), ()) is None
