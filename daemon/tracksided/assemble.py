"""From the records of a step and its analysis to the documents and scalars that are written.

Pure. It works without an analysis too: then everything that needs arrays is null or empty, and
the numbers of the records stay.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trackside.wire.records import Hello, LoggedScalar, LoggedText, Step
from tracksided.reports import Scalar, StepAnalysis, StepReport, Text, known_scalars

SCHEMA = 1
NO_ANALYSIS = StepAnalysis(
    statistics={"encoder": [], "decoder": [], "gradients": None, "gradient_noise_scale": None},
    scalars=(),
    histograms=(),
    pictures=(),
    raw=(),
    failures={},
)

# Per-layer numbers short enough for a line of history.jsonl.
_HISTORY_ATTENTION = (
    "layer",
    "module",
    "type",
    "entropy",
    "normalized_entropy",
    "max_logit",
    "sink_mass",
)
_CUSTOM_GROUP = "Custom"


@dataclass(frozen=True, slots=True)
class RankStep:
    """What one rank said of itself and of one step."""

    hello: Hello
    step: Step
    weight_norm: float | None = None
    """Of this rank's weights before the step."""

    weight_checksum: str | None = None
    """Equal on all ranks that train replicas."""


def assemble(
    ranks: Sequence[RankStep],
    analysis: StepAnalysis | None,
    *,
    shed: str | None = None,
    failures: Mapping[str, str] | None = None,
) -> StepReport:
    """Build the report of a step.

    Args:
        ranks: all local ranks that delivered, the lowest first; its numbers stand for the step.
        analysis: None where a worker could not make one.
        shed: what was left out because the daemon was overloaded.
        failures: stage to error, besides those of the analysis.
    """
    leader = ranks[0]
    analysis = NO_ANALYSIS if analysis is None else analysis
    statistics = {
        "metadata": _metadata(leader),
        **analysis.statistics,
        "ranks": [_rank(entry) for entry in ranks],
    }
    if statistics["gradients"] is None:
        statistics["gradients"] = gradient_totals(leader.step)
    return StepReport(
        hello=leader.hello,
        step=leader.step.step,
        statistics=statistics,
        history=_history(leader, statistics, {**analysis.failures, **(failures or {})}, shed),
        scalars=(
            *training_scalars(leader.step),
            *_monitoring_scalars(leader.step, statistics),
            *analysis.scalars,
        ),
        texts=tuple(logged_texts(leader.step.texts)),
        histograms=analysis.histograms,
        pictures=analysis.pictures,
    )


def folder_name(step: Step) -> str:
    """Return the name of a step's folder: ``step_100`` or ``epoch_1_step_500``."""
    if step.epoch_requested and step.epoch is not None:
        return f"epoch_{step.epoch}_step_{step.step}"
    return f"step_{step.step}"


def gradient_totals(step: Step) -> dict[str, Any] | None:
    """Return the ``gradients`` object without parameters, None where nothing is known."""
    is_known = any(value is not None for value in _clipping(step).values())
    return gradients_object(step, None, []) if is_known else None


def gradients_object(
    step: Step, cosine: float | None, parameters: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Build the ``gradients`` object of ``statistics.json``.

    Args:
        step: for the norms of the whole gradient.
        cosine: to the gradient of the sample before, -1 to 1; None where it is not known.
        parameters: name and statistics of each; empty where they were not analysed.
    """
    norms = [norm for norm in (step.norm_before_clip, step.norm_after_clip) if norm is not None]
    flags = [p["nonfinite"] for p in parameters if p["nonfinite"] is not None]
    flags += [not math.isfinite(norm) for norm in norms]
    return {
        **_clipping(step),
        "nonfinite": any(flags) if flags else None,
        "cosine_to_previous": cosine,
        "parameters": list(parameters),
    }


def _clipping(step: Step) -> dict[str, Any]:
    return {
        "norm_before_clip": step.norm_before_clip,
        "norm_after_clip": step.norm_after_clip,
        "clipped": step.clipped,
        "max_norm": step.max_norm,
        "clip_rate": step.clip_rate,
    }


def training_scalars(step: Step) -> Iterable[Scalar]:
    """Yield the ``Training/*`` tags and what the script logged; unknown values yield nothing."""
    values = {
        "Training/Loss": step.loss,
        "Training/Learning_Rate": step.learning_rate,
        "Training/GradNorm": step.norm_before_clip,
        "Training/Gradient_Norm": step.norm_after_clip,
        "Training/Clip_Rate": step.clip_rate,
        "Training/Epoch": step.epoch,
        "Training/Step_Seconds": step.step_seconds,
    }
    yield from known_scalars(values, step.step)
    yield from logged_scalars(step.scalars)


def _monitoring_scalars(step: Step, statistics: Mapping[str, Any]) -> Iterable[Scalar]:
    values = {
        "Monitoring/Gradient_Noise_Scale": statistics["gradient_noise_scale"],
        "Monitoring/Gradient_Cosine": (statistics["gradients"] or {}).get("cosine_to_previous"),
    }
    return known_scalars(values, step.step)


def logged_scalars(scalars: Sequence[LoggedScalar]) -> Iterable[Scalar]:
    """Yield values given to `Session.log`, as ``Custom/<name>`` unless they carry a group."""
    for entry in scalars:
        tag = entry.name if "/" in entry.name else f"{_CUSTOM_GROUP}/{entry.name}"
        yield Scalar(tag, entry.value, entry.step)


def logged_texts(texts: Sequence[LoggedText]) -> Iterable[Text]:
    """Yield texts given to `Session.text`."""
    for entry in texts:
        tag = entry.tag if "/" in entry.tag else f"{_CUSTOM_GROUP}/{entry.tag}"
        yield Text(tag, entry.text, entry.step)


def nonfinite_paths(document: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the dotted paths of NaN and infinite numbers outside of lists.

    JSON has no such numbers: they are written as null, and these names tell them from unknown.
    """
    found: list[str] = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            found += nonfinite_paths(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{prefix}{key}")
    return found


def layer_norms(parameters: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Put the gradient norms of parameters together by layer.

    The name of a layer ends with the first number in a parameter's name (``h.3.attn.weight``
    belongs to ``h.3``); without a number it is the module (``embed.weight``: ``embed``).
    """
    squares: dict[str, float] = {}
    for entry in parameters:
        norm = entry.get("norm")
        if norm is not None:
            layer = _layer_of(entry["name"])
            squares[layer] = squares.get(layer, 0.0) + norm * norm
    return {layer: math.sqrt(total) for layer, total in squares.items()}


def _layer_of(parameter: str) -> str:
    parts = parameter.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
    return ".".join(parts[:-1] if number is None else parts[: number + 1]) or parameter


def _metadata(leader: RankStep) -> dict[str, Any]:
    hello, step = leader.hello, leader.step
    metadata: dict[str, Any] = {
        "step": step.step,
        "epoch": step.epoch,
        "loss": step.loss,
        "lr": step.learning_rate,
        "timestamp": step.timestamp,
        "run": hello.run,
        "rank": hello.rank,
        "world_size": hello.world_size,
        "schema": SCHEMA,
    }
    return {**metadata, "nonfinite": nonfinite_paths(metadata)}


def _rank(entry: RankStep) -> dict[str, Any]:
    return {
        "rank": entry.hello.rank,
        "loss": entry.step.loss,
        "local_grad_norm": entry.step.local_gradient_norm,
        "step_seconds": entry.step.step_seconds,
        "local_seconds": entry.step.local_seconds,
        "weight_norm": entry.weight_norm,
        "weight_checksum": entry.weight_checksum,
        "dropped": sum(entry.step.dropped.values()),
    }


def _history(
    leader: RankStep,
    statistics: Mapping[str, Any],
    failures: Mapping[str, str],
    shed: str | None,
) -> dict[str, Any]:
    step = leader.step
    line: dict[str, Any] = {
        "schema": SCHEMA,
        "run": leader.hello.run,
        "step": step.step,
        "epoch": step.epoch,
        "timestamp": step.timestamp,
        "folder": folder_name(step),
        "loss": step.loss,
        "lr": step.learning_rate,
        **_clipping(step),
        "norm_peak": step.norm_peak,
        "step_seconds": step.step_seconds,
        "micro_batches": step.micro_batches,
        "amp_scale": step.amp_scale,
        "world_size": leader.hello.world_size,
        "gradient_noise_scale": statistics.get("gradient_noise_scale"),
        "dropped": sum(step.dropped.values()),
    }
    line["nonfinite"] = nonfinite_paths(line)
    line["ranks"] = statistics["ranks"]
    for rank in line["ranks"]:
        line["nonfinite"] += nonfinite_paths(rank, f"ranks.{rank['rank']}.")
    line["attention"] = {
        stack: [{key: layer.get(key) for key in _HISTORY_ATTENTION} for layer in statistics[stack]]
        for stack in ("encoder", "decoder")
    }
    line["layer_norms"] = layer_norms((statistics["gradients"] or {}).get("parameters") or ())
    line["logged"] = {entry.name: entry.value for entry in step.scalars}
    line["shrunk"] = list(step.shrunk)
    line["failures"] = dict(failures)
    line["shed"] = shed
    return line
