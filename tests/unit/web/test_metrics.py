import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from web_site import make_line, make_rank, make_run

from tracksided.web.health import health
from tracksided.web.metrics import MAX_RUNS, metrics_runs, render_metrics
from tracksided.web.readings import Readings
from tracksided.web.served import Served, read_served

NOW = 1_700_000_000.0


HOST = {
    "timestamp": NOW - 5,
    "cpu_percent": 50.0,
    "memory_percent": 25.0,
    "memory_pressure_level": 1,
    "cgroup_memory_bytes": 7,
    "cgroup_memory_limit_bytes": 8,
    "disks": [{"path": "/data", "free_bytes": 10, "total_bytes": 20}],
    "gpus": [
        {
            "index": 3,
            "utilization_percent": 80.0,
            "memory_used_bytes": 30,
            "memory_total_bytes": 40,
            "temperature_c": 71.0,
            "power_w": 350.5,
        },
        {"index": 4, "temperature_c": None},
    ],
    "processes": [
        {"pid": 9, "rank": 0, "rss_bytes": 50, "cpu_percent": 150.0, "gpu_memory_bytes": 60}
    ],
}


def served(*runs: dict[str, Any], **changes: Any) -> Served:
    status = {
        "pid": 7,
        "version": "1.0",
        "started_at": 5.0,
        "updated_at": NOW,
        "workers": {"pids": [1, 2], "deaths": 3},
        "averages": {"published": 4, "failed": 1},
        "refused": {"x.ring": "magic"},
        "runs": list(runs),
    }
    return read_served(status | changes)


def scrape(status: Served | None, readings: dict[str, Readings], *, is_up: bool = True) -> Any:
    """Return (name, labels) to value, as Prometheus' own parser reads it."""
    text = render_metrics(status, readings, is_up=is_up).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def a_run() -> tuple[Served, dict[str, Readings]]:
    ranks = [
        make_rank(0, drops={"ring_full": 5, "too_large": 2}),
        make_rank(1, alive=False, torn=3),
    ]
    active = [{"id": "x", "rule": "loss_spike"}]
    run = make_run("a", Path("/data/a"), ranks=ranks, shed=6, world_size=2, alerts=active)
    status = served(run)
    newest = make_line(
        "a",
        100,
        lr=None,
        norm_before_clip=3.0,
        norm_after_clip=1.0,
        gradient_noise_scale=512.0,
        host=HOST,
        monitoring={"convergence_score": 0.75},
    )
    alerts = {("loss_spike", "warning"): 2, ("stalled", "critical"): 1}
    return status, {status.runs[0].key: Readings(newest, alerts)}


def test_a_run_and_its_ranks_are_told():
    values = scrape(*a_run())

    run = ("run", "a")
    assert values["trackside_run_last_step", run] == 120
    assert values["trackside_run_alive_ranks", run] == 1
    assert values["trackside_run_shed_steps_total", run] == 6
    assert values["trackside_rank_lag_bytes", ("rank", "0"), run] == 4096
    assert values["trackside_rank_alive", ("rank", "1"), run] == 0
    assert values["trackside_rank_damaged_records_total", ("rank", "1"), run] == 3
    dropped = "trackside_rank_dropped_samples_total"
    assert values[dropped, ("cause", "ring_full"), ("rank", "0"), run] == 5
    assert values[dropped, ("cause", "too_large"), ("rank", "0"), run] == 2


def test_the_newest_step_is_told_and_what_is_unknown_has_no_series():
    values = scrape(*a_run())

    run = ("run", "a")
    assert values["trackside_run_loss", run] == 4.0 / 100
    assert values["trackside_run_gradient_norm", run] == 1.0
    assert values["trackside_run_gradient_norm_before_clip", run] == 3.0
    assert values["trackside_rank_step_seconds", ("rank", "0"), run] == 0.25
    assert ("trackside_run_learning_rate", run) not in values
    entropy = "trackside_run_attention_entropy_nats"
    layer = (("layer", "0"), run, ("stack", "decoder"), ("type", "self_attention"))
    assert values[entropy, *layer] == 1.5


def test_the_machine_is_told_in_base_units():
    values = scrape(*a_run())

    assert values["trackside_host_cpu_ratio",] == 0.5
    assert values["trackside_host_memory_used_ratio",] == 0.25
    assert values["trackside_host_memory_pressure_level",] == 1
    assert values["trackside_disk_free_bytes", ("path", "/data")] == 10
    assert values["trackside_gpu_utilization_ratio", ("gpu", "3")] == 0.8
    assert values["trackside_gpu_power_watts", ("gpu", "3")] == 350.5
    assert ("trackside_gpu_temperature_celsius", ("gpu", "4")) not in values
    rank = (("rank", "0"), ("run", "a"))
    assert values["trackside_rank_resident_memory_bytes", *rank] == 50
    assert values["trackside_rank_cpu_cores", *rank] == 1.5


def test_of_two_readings_of_the_machine_the_newer_one_is_told():
    runs = [make_run(name, Path("/data")) for name in ("a", "b")]
    status = served(*runs)
    newer = {"host": HOST | {"timestamp": NOW, "cpu_percent": 75.0}}
    readings = {
        status.runs[0].key: Readings(newer),
        status.runs[1].key: Readings({"host": HOST}),
    }

    assert scrape(status, readings)["trackside_host_cpu_ratio",] == 0.75


def test_alerts_are_counted_by_rule():
    values = scrape(*a_run())

    kind = (("rule", "loss_spike"), ("run", "a"), ("severity", "warning"))
    assert values["trackside_alerts_total", *kind] == 2
    assert values["trackside_run_active_alerts", ("run", "a")] == 1


def test_the_daemon_is_told():
    values = scrape(*a_run())

    assert values["trackside_daemon_up",] == 1
    assert values["trackside_daemon_start_timestamp_seconds",] == 5.0
    assert values["trackside_daemon_workers",] == 2
    assert values["trackside_daemon_worker_deaths_total",] == 3
    assert values["trackside_daemon_refused_segments",] == 1
    assert values["trackside_averages_total", ("result", "published")] == 4
    assert values["trackside_runs", ("state", "running")] == 1


@pytest.mark.parametrize("case", ["silent", "absent"])
def test_runs_of_a_daemon_that_is_silent_or_gone_vanish(case: str):
    status, readings = a_run()

    values = scrape(None if case == "absent" else status, readings, is_up=False)

    assert values["trackside_daemon_up",] == 0
    assert not any("run" in name for name, *_ in values)


def test_of_two_runs_with_one_name_the_newer_one_is_told():
    older = make_run("a", Path("/data/1"), last_step=1)
    newer = make_run("a", Path("/data/2"), last_step=2)

    values = scrape(served(older, newer), {})

    assert values["trackside_run_last_step", ("run", "a")] == 2


def test_the_number_of_runs_is_bounded():
    runs = [make_run(f"run-{index}", Path("/data")) for index in range(MAX_RUNS + 5)]

    found = metrics_runs(served(*runs))

    assert [found[0].run, len(found), found[-1].run] == ["run-5", MAX_RUNS, f"run-{MAX_RUNS + 4}"]


def test_what_cannot_be_sent_costs_no_scrape():
    path = os.fsdecode(b"/data/\xff")
    run = make_run("a", Path("/data/a"), last_step=10**400, problem=path)
    status = served(run, refused={path: path})
    line = make_line("a", 1, loss=10**400, host=HOST | {"disks": [{"path": path, "free_bytes": 1}]})

    values = scrape(status, {status.runs[0].key: Readings(line)})

    assert values["trackside_disk_free_bytes", ("path", "/data/?")] == 1
    assert values["trackside_run_last_step", ("run", "a")] == 0
    assert ("trackside_run_loss", ("run", "a")) not in values
    json.dumps(health(status, 0.0)[1], ensure_ascii=False).encode()


def test_a_status_of_foreign_make_counts_as_none():
    runs = [{"run": 7, "ranks": [{"lag_bytes": "much", "drops": [1]}]}, "no run"]

    values = scrape(served(*runs, workers=[], averages=None, refused=7), {})  # type: ignore[arg-type] - foreign on purpose

    assert values["trackside_rank_lag_bytes", ("rank", "0"), ("run", "unnamed")] == 0


def test_the_page_of_the_docs_names_every_metric_and_no_other():
    page = (Path(__file__).parents[3] / "docs/page.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| `(trackside_[a-z_]+)` \| ([a-z, ]*)\|", re.MULTILINE)
    written = {name: set(labels.replace(" ", "").split(",")) for name, labels in row.findall(page)}

    values = scrape(*a_run())

    told = {name: {label for label, _ in labels} or {""} for name, *labels in values}
    assert written == told | {"trackside_run_learning_rate": {"run"}}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (prometheus) is not here")
@pytest.mark.parametrize("case", ["run", "absent"])
def test_promtool_has_nothing_to_say(case: str):
    status, readings = a_run() if case == "run" else (None, {})
    text = render_metrics(status, readings, is_up=case == "run")

    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )

    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
