"""``/metrics``: what the daemon, its runs and ranks do, in Prometheus' text format.

Names carry base units. A run that is not served any more has no series, so that nobody takes its
last value for a current one. Unknown values have no series either.

Source: https://prometheus.io/docs/practices/naming/ and its text exposition format.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracksided.web.fields import count, number, objects, text
from tracksided.web.machine_metrics import machine_metrics
from tracksided.web.readings import Readings
from tracksided.web.served import Served, ServedRank, ServedRun

MAX_RUNS = 256  # the newest; bounds the size of an answer
MAX_LAYERS = 256  # of one run

# Name, help and field of a line of history.jsonl.
_OF_STEP = (
    ("loss", "Loss of the newest sampled step.", "loss"),
    ("learning_rate", "Learning rate of the newest sampled step.", "lr"),
    (
        "gradient_norm",
        "Gradient norm of the newest sampled step as the optimizer saw it.",
        "norm_after_clip",
    ),
    (
        "gradient_norm_before_clip",
        "Gradient norm of the newest sampled step before clipping.",
        "norm_before_clip",
    ),
    ("step_seconds", "Mean wall time of a step since the sample before.", "step_seconds"),
    (
        "gradient_noise_scale",
        "Gradient noise scale of the newest sampled step, in batches of one rank.",
        "gradient_noise_scale",
    ),
    ("sample_timestamp_seconds", "When the newest sampled step was taken.", "timestamp"),
)


def render_metrics(
    served: Served | None, readings: Mapping[str, Readings], *, is_up: bool
) -> bytes:
    """Return the text of a scrape.

    Args:
        served: what the daemon says; None where it says nothing.
        readings: key of a run to its readings.
        is_up: whether its last sign of life is young.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(served, readings, is_up=is_up))
    return generate_latest(registry)


def metrics_runs(served: Served) -> tuple[ServedRun, ...]:
    """Return the runs that have series: of several with one name the newest, and not too many."""
    by_name = {run.run: run for run in served.runs}
    return tuple(by_name.values())[-MAX_RUNS:]


class _Snapshot(Collector):
    """All metrics of one moment."""

    def __init__(
        self, served: Served | None, readings: Mapping[str, Readings], *, is_up: bool
    ) -> None:
        self._served = served
        self._readings = readings
        self._is_up = is_up

    def collect(self) -> Iterable[Metric]:
        yield _gauge("daemon_up", "1 if the daemon has given a sign of life.", self._is_up)
        if self._served is None:
            return
        yield _gauge(
            "daemon_update_timestamp_seconds",
            "When the daemon gave its last sign of life.",
            self._served.updated_at,
        )
        if self._is_up:
            runs = metrics_runs(self._served)
            yield from _daemon_metrics(self._served)
            yield from _run_metrics(runs)
            yield from _rank_metrics(runs)
            yield from self._step_metrics(runs)

    def _step_metrics(self, runs: Iterable[ServedRun]) -> Iterator[Metric]:
        read = [(run, self._readings.get(run.key, Readings())) for run in runs]
        for name, documentation, key in _OF_STEP:
            family = _gauges(f"run_{name}", documentation, "run")
            for run, readings in read:
                _add(family, (run.run,), number(readings.newest, key))
            yield family
        yield from _layer_metrics(read)
        seconds = _gauges(
            "rank_step_seconds", "Mean wall time of a step since the sample before.", "run", "rank"
        )
        for run, readings in read:
            for rank in objects(readings.newest, "ranks"):
                _add(seconds, (run.run, str(count(rank, "rank"))), number(rank, "step_seconds"))
        yield seconds
        alerts = _counters("alerts", "Alerts of this run.", "run", "rule", "severity")
        for run, readings in read:
            for (rule, severity), amount in sorted(readings.alerts.items()):
                alerts.add_metric((run.run, rule, severity), amount)
        yield alerts
        score = _gauges("run_convergence_score", "0 to 1, see docs/stages.md.", "run")
        for run, readings in read:
            monitoring = readings.newest.get("monitoring")
            if isinstance(monitoring, dict):
                _add(score, (run.run,), number(monitoring, "convergence_score"))
        yield score
        yield from machine_metrics({run.run: readings.newest for run, readings in read})


def _daemon_metrics(served: Served) -> Iterator[Metric]:
    info = _gauges("daemon_info", "1, with the version of the daemon as a label.", "version")
    info.add_metric((served.version,), 1)
    yield info
    yield _gauge(
        "daemon_start_timestamp_seconds", "When the daemon was started.", served.started_at
    )
    yield _gauge("daemon_workers", "Analysis processes that run.", served.num_workers)
    deaths = _counters("daemon_worker_deaths", "Analysis processes that ended unasked.")
    deaths.add_metric((), served.worker_deaths)
    yield deaths
    yield _gauge(
        "daemon_refused_segments", "Segments that the daemon does not read.", len(served.refused)
    )
    runs = _gauges("runs", "Runs that are served, by state.", "state")
    states = [run.state for run in served.runs]
    for state in sorted(set(states)):
        runs.add_metric((state,), states.count(state))
    yield runs
    averages = _counters("averages", "Checkpoint averagings that ended, by result.", "result")
    for result, amount in sorted(served.averages.items()):
        averages.add_metric((result,), amount)
    yield averages


def _run_metrics(runs: Iterable[ServedRun]) -> Iterator[Metric]:
    gauges: tuple[tuple[str, str, Any], ...] = (
        ("run_last_step", "Newest step that a rank has published.", lambda run: run.last_step),
        ("run_committed_step", "Newest step that is on disk.", lambda run: run.committed_step),
        ("run_waiting_steps", "Steps that wait for analysis.", lambda run: run.waiting),
        ("run_world_size", "Ranks of the whole job.", lambda run: run.world_size),
        (
            "run_active_alerts",
            "Alerts whose cause is there or was a moment ago.",
            lambda run: len(run.active_alerts),
        ),
        ("run_alive_ranks", "Ranks on this node whose trainer runs.", _num_alive),
        (
            "run_problem",
            "1 if outputs of the run cannot be written, or another daemon writes them, too.",
            lambda run: run.problem is not None,
        ),
    )
    counters: tuple[tuple[str, str, Any], ...] = (
        (
            "run_late_records",
            "Records that came after their step was written.",
            lambda run: run.late,
        ),
        ("run_shed_steps", "Steps that lost outputs to overload.", lambda run: run.shed),
        ("run_failed_steps", "Steps that could not be analysed.", lambda run: run.failed),
    )
    for name, documentation, value in gauges:
        gauge = _gauges(name, documentation, "run")
        for run in runs:
            gauge.add_metric((run.run,), float(value(run)))
        yield gauge
    for name, documentation, value in counters:
        counter = _counters(name, documentation, "run")
        for run in runs:
            counter.add_metric((run.run,), value(run))
        yield counter


def _rank_metrics(runs: Iterable[ServedRun]) -> Iterator[Metric]:
    ranks = [(run.run, rank) for run in runs for rank in _one_of_each(run)]
    alive = _gauges("rank_alive", "1 if the trainer of this rank runs.", "run", "rank")
    step = _gauges("rank_last_step", "Newest step that this rank has published.", "run", "rank")
    lag = _gauges("rank_lag_bytes", "Published and not yet written to disk.", "run", "rank")
    damaged = _counters("rank_damaged_records", "Corrupt or torn records.", "run", "rank")
    dropped = _counters(
        "rank_dropped_samples", "Samples that this rank could not publish.", "run", "rank", "cause"
    )
    for run, rank in ranks:
        labels = (run, str(rank.rank))
        alive.add_metric(labels, rank.is_alive)
        step.add_metric(labels, rank.last_step)
        lag.add_metric(labels, rank.lag_bytes)
        damaged.add_metric(labels, rank.damaged)
        for cause, amount in sorted(rank.drops.items()):
            dropped.add_metric((*labels, cause), amount)
    yield from (alive, step, lag, damaged, dropped)


def _layer_metrics(read: Iterable[tuple[ServedRun, Readings]]) -> Iterator[Metric]:
    labels = ("run", "stack", "layer", "type")
    entropy = _gauges(
        "run_attention_entropy_nats", "Mean entropy of the attention of a layer.", *labels
    )
    logit = _gauges("run_attention_max_logit", "Largest attention logit of a layer.", *labels)
    for run, readings in read:
        attention = readings.newest.get("attention")
        attention = attention if isinstance(attention, dict) else {}
        layers = {
            (run.run, stack, str(count(entry, "layer")), text(entry, "type") or "unknown"): entry
            for stack in ("encoder", "decoder")
            for entry in objects(attention, stack)
        }
        for identity, entry in list(layers.items())[:MAX_LAYERS]:
            _add(entropy, identity, number(entry, "entropy"))
            _add(logit, identity, number(entry, "max_logit"))
    yield from (entropy, logit)


def _one_of_each(run: ServedRun) -> Iterable[ServedRank]:
    return {rank.rank: rank for rank in run.ranks}.values()


def _num_alive(run: ServedRun) -> int:
    return sum(rank.is_alive for rank in run.ranks)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"trackside_{name}", documentation, value=float(value))


def _gauges(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"trackside_{name}", documentation, labels=labels)


def _counters(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"trackside_{name}", documentation, labels=labels)


def _add(family: GaugeMetricFamily, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)
