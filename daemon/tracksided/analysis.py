"""What becomes of one sampled step: its statistics, scalars, histograms and pictures.

Pure: no I/O, no clock. A stage that raises costs its own output and is named in
`StepAnalysis.failures`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from trackside.wire.records import Step
from tracksided.assemble import gradients_object
from tracksided.attention import LazyMaps, map_name
from tracksided.catalog import ATTENTION_STATISTICS, PARAMETER_STATISTICS, RENDERERS
from tracksided.reports import Histogram, Picture, RawMap, Scalar, StepAnalysis
from tracksided.samples import GradientSample, StepSamples
from tracksided.stages import AttentionMap, StepData
from tracksided.statistics.gradient_cosine import gradient_cosine
from tracksided.statistics.histogram import histogram
from tracksided.statistics.noise_scale import gradient_noise_scale

logger = logging.getLogger(__name__)

# Statistics of a map that are also drawn over time, under attention/<stack>_layer<i>_...
CURVES = ("mean", "std", "entropy")

_Made = TypeVar("_Made")


def analyse(
    samples: StepSamples,
    *,
    visualize: Sequence[str],
    with_pictures: bool,
    with_statistics: bool,
) -> StepAnalysis:
    """Make everything of a step that needs its arrays.

    Args:
        samples: all local ranks of the step.
        visualize: names of the renderers to run; words without one are passed over.
        with_pictures: False sheds the pictures.
        with_statistics: False sheds what is computed from maps and sampled elements: the lists
            ``encoder``, ``decoder`` and ``gradients.parameters`` are then empty, and there are
            no scalars and histograms. Numbers that the trainer sent itself stay.

    Returns:
        Values may be NaN or infinite; unknown is None.
    """
    leader = samples.leader
    guard = _Guard()
    renderers = [r for r in RENDERERS if with_pictures and r.name in visualize]
    needs_maps = with_statistics or bool(renderers) or leader.hello.save_raw
    maps = LazyMaps(leader.attention if needs_maps else ())
    guard.failures.update(maps.failures)

    parameters = leader.gradients if with_statistics else None
    gradients = _gradient_statistics(leader.step, parameters, guard)
    entries = _attention_entries(maps if with_statistics else (), guard)
    data = StepData(
        run=samples.run,
        step=samples.step,
        epoch=leader.step.epoch,
        maps=maps,
        gradients=leader.gradients,
        gradient_statistics=gradients,
        tokens=leader.step.tokens,
    )
    pictures: list[Picture] = []
    for renderer in renderers:
        guard.collect(f"renderer {renderer.name}", renderer.render(data), pictures)
    noise_scale = guard.run("statistic gradient_noise_scale", partial(_noise_scale, samples))
    histograms: list[Histogram] = []
    if parameters is not None:
        guard.collect("histograms", _histograms(parameters, samples.step), histograms)
    return StepAnalysis(
        statistics={**entries, "gradients": gradients, "gradient_noise_scale": noise_scale},
        scalars=tuple(
            scalar
            for stack, of_stack in entries.items()
            for entry in of_stack
            for scalar in attention_scalars(samples.step, stack, entry)
        ),
        histograms=tuple(histograms),
        pictures=tuple(pictures),
        raw=tuple(map(_raw, maps)) if leader.hello.save_raw else (),
        failures=guard.failures,
    )


def attention_scalars(step: int, stack: str, entry: Mapping[str, Any]) -> Iterable[Scalar]:
    """Yield the curves of one entry of ``statistics.json``; what is unknown yields nothing.

    Args:
        step: under which they stand.
        stack: ``encoder`` or ``decoder``.
        entry: of one attention map.
    """
    prefix = f"attention/{stack}_layer{entry['layer']}"
    if stack == "decoder":  # an encoder has one kind of attention only
        prefix += "_self" if entry["type"] == "self_attention" else "_cross"
    for name in CURVES:
        if entry[name] is not None:
            yield Scalar(f"{prefix}_{name}", float(entry[name]), step)


class _Guard:
    """Runs stages; one that raises is logged and named, and the step goes on without it."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}

    def run(self, stage: str, compute: Callable[[], _Made]) -> _Made | None:
        try:
            return compute()
        except Exception as error:  # noqa: BLE001 - around a stage
            self._note(stage, error)
            return None

    def collect(self, stage: str, made: Iterable[_Made], into: list[_Made]) -> None:
        """Take what a generator makes until it ends or raises."""
        try:
            into.extend(made)
        except Exception as error:  # noqa: BLE001 - around a stage
            self._note(stage, error)

    def _note(self, stage: str, error: Exception) -> None:
        logger.debug("%s failed", stage, exc_info=error)
        self.failures[stage] = repr(error)


def _attention_entries(
    maps: Iterable[AttentionMap], guard: _Guard
) -> dict[str, list[dict[str, Any]]]:
    entries: dict[str, list[dict[str, Any]]] = {"encoder": [], "decoder": []}
    for attention in maps:
        entries[attention.stack].append(_attention_statistics(attention, guard))
    return entries


def _attention_statistics(attention: AttentionMap, guard: _Guard) -> dict[str, Any]:
    values = {
        statistic.name: guard.run(
            f"statistic {statistic.name}", partial(statistic.compute, attention)
        )
        for statistic in ATTENTION_STATISTICS
    }
    return {
        "layer": attention.layer,
        "module": attention.module,
        "type": attention.type,
        **values,
        "shape": list(attention.weights.shape),
        "query_rows": attention.query_rows.tolist(),
    }


def _gradient_statistics(
    step: Step, sample: GradientSample | None, guard: _Guard
) -> dict[str, Any] | None:
    """Build the ``gradients`` object; None where the trainer sent nothing of it."""
    sent = (step.norm_before_clip, step.norm_after_clip, step.clip_rate, step.gradients)
    if all(part is None for part in sent):
        return None
    parameters: list[dict[str, Any]] = []
    cosine: float | None = None
    if sample is not None:
        cosine = guard.run("statistic gradient_cosine", partial(gradient_cosine, sample))
        parameters = [{"name": name} for name in sample.names]
        for statistic in PARAMETER_STATISTICS:
            column = guard.run(
                f"statistic gradients.{statistic.name}", partial(statistic.compute, sample)
            )
            for index, parameter in enumerate(parameters):
                parameter[statistic.name] = None if column is None else column[index]
    return gradients_object(step, cosine, parameters)


def _noise_scale(samples: StepSamples) -> float | None:
    """Estimate the noise scale in units of one rank's batch, whose size is not known here.

    None where ranks hold other parameters than the leader: stages of a pipeline share a batch.
    """
    leader = samples.leader
    names = {sample.gradients.names for sample in samples.samples if sample.gradients is not None}
    if len(names) > 1:
        return None
    num_ranks = leader.hello.world_size
    local = [sample.step.local_gradient_norm for sample in samples.samples]
    local_norms = [norm for norm in local if norm is not None]
    global_norm = _norm_of_average(leader.step)
    if len(local_norms) < 2 or num_ranks < 2 or global_norm is None:  # noqa: PLR2004 - a pair
        return None
    return gradient_noise_scale(local_norms, global_norm, num_ranks=num_ranks)


def _norm_of_average(step: Step) -> float | None:
    """Return the norm before clipping, over what the watched optimizer updates, as ranks' own are.

    The norm that was clipped by may be over more: other optimizers update the rest.
    """
    before, after, limit = step.norm_before_clip, step.norm_after_clip, step.max_norm
    if before is None or after is None:
        return before if before is not None or step.clipped else after
    if not step.clipped:
        return after
    return after * before / limit if limit else before


def _histograms(sample: GradientSample, step: int) -> Iterable[Histogram]:
    groups = (("Gradients", sample.sample), ("Model/Weights_Distribution", sample.weight_after))
    for group, columns in groups:
        for name, values in zip(sample.names, columns, strict=True):
            made = histogram(f"{group}/{name}", values, step)
            if made is not None:
                yield made


def _raw(attention: AttentionMap) -> RawMap:
    return RawMap(
        file_name=f"{map_name(attention)}.npz",
        weights=attention.weights,
        query_rows=attention.query_rows,
        module=attention.module,
    )
