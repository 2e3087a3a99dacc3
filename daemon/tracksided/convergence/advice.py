"""What to try next: early stopping, learning rate, clipping. Advice, never an action."""

from collections.abc import Iterator

from tracksided.convergence.course import Best, Evaluation
from tracksided.convergence.gradients import (
    ADVICE,
    CLIP_ADVICE,
    HIGH_CLIP_RATE,
    GradientHealth,
)
from tracksided.convergence.loss import LossTrend, is_stagnant

RISING_CHANGE = 0.05  # of the loss over the window
OPEN_SCORE = 0.5  # below, a falling loss has most of its way still before it
KEPT_SHARE = 0.5  # of the largest learning rate: above, it has not been lowered yet
MAX_GENERALISATION_LOSS_PERCENT = 5.0
MAX_EVALUATIONS_SINCE = 3


def advise(
    *,
    trend: LossTrend | None,
    score: float | None,
    health: GradientHealth | None,
    clip_rate: float | None,
    learning_rate_share: float | None,
    best: Best | None,
    evaluation: Evaluation | None,
) -> tuple[str, ...]:
    """Return what to try, the most pressing first; empty where nothing is to be said.

    Args:
        trend: of the training loss.
        score: of convergence, 0 to 1.
        health: of the gradients.
        clip_rate: mean share of clipped steps, 0 to 1.
        learning_rate_share: the learning rate now over the largest one seen.
        best: lowest training loss.
        evaluation: loss on held-out data.
    """
    return (
        *_about_gradients(health, clip_rate),
        *_about_evaluation(evaluation),
        *_about_loss(trend, score, learning_rate_share, best),
    )


def generalisation_loss_percent(evaluation: Evaluation) -> float | None:
    """Return how far the held-out loss is above its best, in percent; None for a best of 0 or less.

    GL = 100 (last / best - 1).

    Source: Prechelt 1998, Early Stopping - But When?, doi:10.1007/3-540-49430-8_3; above 5 is its
    criterion GL_5.
    """
    if evaluation.best.value <= 0:
        return None
    return 100.0 * (evaluation.last / evaluation.best.value - 1.0)


def _about_gradients(health: GradientHealth | None, clip_rate: float | None) -> Iterator[str]:
    if health is not None and health in ADVICE:
        yield f"Gradients are {health}: {ADVICE[health]}."
    if clip_rate is not None and clip_rate > HIGH_CLIP_RATE:
        yield f"Clip rate {clip_rate:.0%}: {CLIP_ADVICE}."


def _about_evaluation(evaluation: Evaluation | None) -> Iterator[str]:
    if evaluation is None:
        return
    best = evaluation.best
    worse = generalisation_loss_percent(evaluation)
    if worse is not None and worse > MAX_GENERALISATION_LOSS_PERCENT:
        yield (
            f"Stop early: {evaluation.name} is {worse:.1f} % above its best, {best.value:.4g} at "
            f"step {best.step}; take the checkpoint of that step."
        )
    elif evaluation.num_since >= MAX_EVALUATIONS_SINCE:
        yield (
            f"Stop early or lower the learning rate: {evaluation.name} has not improved in "
            f"{evaluation.num_since} evaluations; best {best.value:.4g} at step {best.step}."
        )


def _about_loss(
    trend: LossTrend | None,
    score: float | None,
    learning_rate_share: float | None,
    best: Best | None,
) -> Iterator[str]:
    if trend is None:
        return
    over = f"over the newest {trend.num_points} samples"
    if trend.direction == "rising" and trend.relative_change > RISING_CHANGE:
        back = "" if best is None else f"; the lowest was {best.value:.4g} at step {best.step}"
        yield (
            f"The loss rises by {trend.relative_change:.1%} {over}{back}: lower the learning rate, "
            "and go on from a checkpoint before the rise."
        )
    elif is_stagnant(trend):
        if learning_rate_share is not None and learning_rate_share > KEPT_SHARE:
            yield (
                f"The loss is flat {over}, and the learning rate has not been lowered: try 2 to 10 "
                "times less, or a schedule that decays it."
            )
        else:
            yield (
                f"The loss is flat {over}: stop here, or change data, model or batch size; more of "
                "the same steps will hardly help."
            )
    elif trend.direction == "falling" and score is not None and score < OPEN_SCORE:
        yield (
            f"The loss still falls by {-trend.relative_change:.1%} {over}: training longer should "
            "help."
        )
