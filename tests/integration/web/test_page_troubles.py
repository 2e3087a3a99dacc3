"""The page in a real browser: alerts, ranks, machine, averages, and a daemon that is silent."""

import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from shown_page import loss_readout, wait_for_text
from web_site import EventReader, WebSite, append, make_line, make_rank, make_run

from tracksided.web.stream import MAX_CLIENTS

pytestmark = pytest.mark.integration


def test_an_alert_is_shown_and_spoken_and_stays_text(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")
    alert = {
        "rule": "loss_spike",
        "severity": "critical",
        "run": "a",
        "step": 20,
        "rank": None,
        "value": 9.0,
        "threshold": 3.0,
        "message": "loss is <b onclick=alert(1)>9.0</b>",
        "advice": "Look at the batch.",
        "timestamp": 1_700_000_000.0,
    }

    append(site.root / "a" / "alerts.jsonl", alert)

    entry = page.locator("#alert-list li")
    entry.wait_for()
    assert "critical: loss spike loss is <b onclick=alert(1)>9.0</b>" in entry.inner_text()
    assert "Look at the batch." in entry.inner_text()
    assert page.locator("#news[aria-live=polite]").text_content() == (
        "Alert of a: critical, loss is <b onclick=alert(1)>9.0</b>"
    )


def test_an_alert_that_still_holds_is_marked(site: WebSite, run: str, open_page: Any):
    del run
    alert = {"rule": "stalled", "severity": "warning", "run": "a", "message": "no step"}
    append(site.root / "a" / "alerts.jsonl", alert | {"id": "old"}, alert | {"id": "new"})
    site.write_status(make_run("a", site.root / "a", alerts=[alert | {"id": "new"}]))

    page = open_page(site.port)

    wait_for_text(page.locator("#run-list .count"), "1 active alerts")
    active = page.locator("#alert-list li").filter(has_text="still so")
    active.wait_for()
    assert (active.count(), page.locator("#alert-list li").count()) == (1, 2)


def test_ranks_with_their_lag_and_drops_are_shown(site: WebSite, run: str, open_page: Any):
    del run
    ranks = [make_rank(0), make_rank(1, alive=False, drops={"ring_full": 7})]
    site.write_status(make_run("a", site.root / "a", ranks=ranks, problem="disk full"))

    page = open_page(site.port)

    gone = page.locator("#rank-table tbody tr").nth(1)
    wait_for_text(gone, "gone")
    assert "ring full 7" in gone.inner_text()
    assert "4.0 KiB" in gone.inner_text()
    wait_for_text(page.locator("#detail-problem"), "disk full")
    wait_for_text(page.locator("#tiles"), r"Ranks alive\s*1 of 2")


def test_the_machine_is_shown_where_it_is_known(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")
    assert not page.locator("#machine").is_visible()
    gpu = {"index": 5, "name": "H100", "utilization_percent": 80.0, "temperature_c": 71.0}
    process = {"pid": 9, "rank": 0, "rss_bytes": 3 << 30}
    host = {"timestamp": 1.0, "cpu_percent": 37.5, "gpus": [gpu], "processes": [process]}

    append(site.root / "a" / "history.jsonl", make_line("a", 40, host=host))

    wait_for_text(page.locator("#machine-facts"), r"CPU\s*37\.5 %")
    row = page.locator("#gpu-table tbody tr").inner_text().split("\t")
    assert row[:4] == ["5", "H100", "80 %", "\N{EN DASH}"]  # its memory is not known
    assert "71 \N{DEGREE SIGN}C" in row
    wait_for_text(page.locator("#rank-table"), r"3\.0 GiB")


def test_checkpoints_that_are_not_averaged_are_named(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")
    assert not page.locator("#averages").is_visible()
    refused = [{"name": "step_3.pt", "reason": "keys differ from step_4.pt"}]
    entry = {"directory": "/ck", "run": "a", "missing": 2, "refused": refused}
    others = {"directory": "/other", "run": "b", "missing": 1, "refused": []}
    few = {"directory": "/few", "run": "a", "missing": 1, "kept": 2, "refused": []}
    directories = {"directories": [entry, others, few]}

    site.write_status(make_run("a", site.root / "a"), checkpoints=directories)

    notes = page.locator("#average-notes li")
    notes.nth(2).wait_for()
    first, second, third = notes.all_inner_texts()
    assert first == "step_3.pt is not averaged: keys differ from step_4.pt"
    assert second.startswith("/ck waits for 2 more like the newest")
    assert third.startswith("/few: 2 checkpoints kept, 3 are needed")


def test_a_silent_daemon_is_told(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(page.get_by_role("status"), "^Live$")

    an_hour_ahead = time.time() + 3600  # the clock was set: it does not count
    stamps = {"updated_at": an_hour_ahead, "updated_monotonic": time.monotonic() - 600}
    site.write_status(make_run("a", site.root / "a"), **stamps)

    wait_for_text(page.get_by_role("status"), "Daemon silent")
    wait_for_text(page.locator("#banner"), "last sign of life 10 min ago: it is stopped or starved")


def test_a_lost_server_is_told_and_taken_up_again(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")

    site.stop()
    wait_for_text(page.get_by_role("status"), "Not connected")
    wait_for_text(page.locator("#banner"), "trackside daemon")
    append(site.root / "a" / "history.jsonl", make_line("a", 40))
    site.start()

    wait_for_text(page.get_by_role("status"), "^Live$")
    wait_for_text(loss_readout(page), "step 40")
    page.locator("#chart-loss summary").click()
    wait_for_text(page.locator("#chart-loss tbody tr").first, "40")
    steps = [row.split("\t")[1] for row in page.locator("#chart-loss tbody tr").all_inner_texts()]
    assert steps == ["40", *(str(step) for step in range(20, 1, -1))]


def test_a_page_too_many_says_so_and_opens_once_there_is_room(
    site: WebSite, run: str, open_page: Any
):
    with ExitStack() as others:
        for _ in range(MAX_CLIENTS):
            reader = others.enter_context(closing(EventReader(site.port, run)))
            assert reader.status == 200
        page = open_page(site.port)
        wait_for_text(page.locator("#banner"), "too many pages are open")
    wait_for_text(page.locator("#connection"), "^Live$")


@pytest.mark.parametrize(("days", "has_date"), [(0, False), (2, True)])
def test_an_alert_of_another_day_has_its_date(
    site: WebSite, run: str, open_page: Any, days: int, *, has_date: bool
):
    del run
    moment = datetime.now(UTC) - timedelta(days=days)
    alert = {"run": "a", "id": "x", "rule": "nonfinite", "timestamp": moment.timestamp()}
    append(site.root / "a" / "alerts.jsonl", alert)

    page = open_page(site.port, timezone_id="UTC")
    facts = page.locator("#alert-list .facts")
    wait_for_text(facts, r"[0-9]+:[0-9]{2}:[0-9]{2}\s[AP]M$")

    date = f"{moment.month}/{moment.day}/{moment.year}, "
    assert (date in facts.inner_text()) == has_date
