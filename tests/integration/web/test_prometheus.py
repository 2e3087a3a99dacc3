"""A real Prometheus that scrapes, and the Grafana dashboard asked of it."""

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import wait_until
from documents import blocks
from web_site import WebSite, answers, append, free_port, get, make_line, make_rank, make_run

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="prometheus is not here (apt-get install prometheus)",
    ),
]

DASHBOARD = json.loads(
    (Path(__file__).parents[3] / "docs/grafana.json").read_text(encoding="utf-8")
)
HOST = {
    "timestamp": 1.0,
    "cpu_percent": 50.0,
    "memory_percent": 25.0,
    "gpus": [{"index": 0, "utilization_percent": 80.0, "memory_used_bytes": 30}],
}
# The page's, with the port of the test, and without patience.
(PAGE_CONFIG,) = (block.text for block in blocks("yaml") if block.page == "docs/page.md")
PAGE_TARGET = "localhost:9470"
IMPATIENT = "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"


def expressions() -> list[str]:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [expression.replace("$run", ".*") for expression in asked]


class Prometheus:
    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, expression: str) -> Any:
        answer = get(self.port, f"/api/v1/query?query={urllib.parse.quote(expression)}").json
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


@pytest.fixture
def prometheus(site: WebSite, tmp_path: Path) -> Iterator[Prometheus]:
    """Prometheus that scrapes a site with a run, which has everything that can be told."""
    directory = site.run_directory("run-a")
    append(directory / "history.jsonl", *(make_line("a", step, host=HOST) for step in (1, 2)))
    append(directory / "alerts.jsonl", {"run": "a", "rule": "loss_spike", "severity": "warning"})
    rank = make_rank(0, drops={"ring_full": 3})
    site.write_status(make_run("a", directory, ranks=[rank]), averages={"published": 2})
    site.start()
    config, port = tmp_path / "prometheus.yml", free_port()
    assert PAGE_TARGET in PAGE_CONFIG
    own = PAGE_CONFIG.replace(PAGE_TARGET, f"localhost:{site.port}")
    config.write_text(IMPATIENT + own, encoding="utf-8")
    process = subprocess.Popen(
        [
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
        ]
    )
    try:
        wait_until(lambda: answers(port) and get(port, "/-/ready").status == 200)
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_the_configuration_of_the_page_is_one_of_prometheus(tmp_path: Path):
    config = tmp_path / "prometheus.yml"
    config.write_text(PAGE_CONFIG, encoding="utf-8")

    done = subprocess.run(["promtool", "check", "config", config], check=False)

    assert done.returncode == 0


def test_a_scrape_is_taken_in_whole_and_followed(site: WebSite, prometheus: Prometheus):
    wait_until(lambda: prometheus.value('trackside_run_loss{run="a"}') == 2.0)
    assert prometheus.value('up{job="trackside"}') == 1
    assert prometheus.value('trackside_rank_dropped_samples_total{cause="ring_full"}') == 3
    assert prometheus.value('trackside_alerts_total{rule="loss_spike",severity="warning"}') == 1
    assert prometheus.value('trackside_averages_total{result="published"}') == 2

    append(site.root / "run-a" / "history.jsonl", make_line("a", 8))
    wait_until(lambda: prometheus.value("trackside_run_loss") == 0.5)
    site.write_status()

    wait_until(lambda: prometheus.value("trackside_run_loss") is None)  # over: its series end
    assert prometheus.value("trackside_daemon_up") == 1


def test_the_dashboard_asks_only_for_what_there_is(prometheus: Prometheus):
    wait_until(lambda: prometheus.value("trackside_run_loss") is not None)
    told = {entry["metric"]["__name__"] for entry in prometheus.query('{job="trackside"}')}

    for expression in expressions():
        asked = set(re.findall(r"trackside_[a-z_]+", expression))

        assert asked
        assert asked <= told
        prometheus.query(expression)  # it can be read

    variable = DASHBOARD["templating"]["list"][1]["definition"]
    assert set(re.findall(r"trackside_[a-z_]+", variable)) <= told


def test_every_panel_of_the_dashboard_says_what_it_shows():
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
    places = [tuple(panel["gridPos"].values()) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
