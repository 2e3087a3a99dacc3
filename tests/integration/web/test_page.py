"""The page in a real browser, as people see and use it."""

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from web_site import WebSite, append, make_line, make_rank, make_run

from tracksided.web.served import run_key

pytestmark = pytest.mark.integration

PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}
PRETEND = """({hidden}) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""
DOCS = Path(__file__).parents[3] / "docs"
PICTURE = DOCS / "images/attention.png"
GALLERY = DOCS / "gallery"
DRAWN = """([width, height]) => {
    const still = document.querySelector("#overview-list canvas:not([hidden])");
    return still.width === width && still.height === height;
}"""
LOADED = "(width) => document.querySelector('#overview-list img').naturalWidth === width"


@pytest.fixture
def run(site: WebSite) -> str:
    """One run with twenty steps and a picture, seen through a running server; its key."""
    return add_run(site, "a", start=True)


def add_run(site: WebSite, name: str, *, start: bool = False) -> str:
    directory = site.run_directory(name)
    append(directory / "history.jsonl", *(make_line(name, step) for step in range(1, 21)))
    folder = directory / "step_20"
    folder.mkdir()
    for layer in range(3):
        shutil.copy(PICTURE, folder / f"decoder_layer{layer}_self_attn.png")
    if start:
        site.write_status(make_run(name, directory))
        site.start()
    return run_key(name, directory)


def loss_readout(page: Any) -> Any:
    return page.locator("#chart-loss .readout")


def wait_for_text(locator: Any, pattern: str) -> None:
    locator.filter(has_text=re.compile(pattern)).wait_for()


def test_an_empty_page_says_what_to_do(site: WebSite, open_page: Any):
    site.write_status()
    site.start()

    page = open_page(site.port)

    page.get_by_role("heading", name="No training is running yet").wait_for()
    assert "trackside.attach(model, optimizer)" in page.locator("#empty").inner_text()
    assert not page.locator("#layout").is_visible()


def test_a_run_that_begins_appears_by_itself(site: WebSite, open_page: Any):
    site.write_status()
    site.start()
    page = open_page(site.port)
    page.locator("#empty").wait_for()

    add_run(site, "late")
    site.write_status(make_run("late", site.root / "late"))

    wait_for_text(page.locator("#detail-title"), "^late$")
    wait_for_text(loss_readout(page), r"0\.2.*step 20")  # 4 / 20
    assert not page.locator("#empty").is_visible()


def test_new_steps_appear_by_themselves(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")

    append(site.root / "a" / "history.jsonl", make_line("a", 40))

    wait_for_text(loss_readout(page), r"0\.1.*step 40")
    wait_for_text(page.locator("#tiles"), r"Loss\s*0\.1")


def test_a_curve_can_be_heard_and_read_as_a_table(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")
    chart = page.get_by_role("img", name="Loss", exact=True)

    description = page.locator(f"#{chart.get_attribute('aria-describedby')}").text_content()
    page.locator("#chart-loss summary").press("Enter")
    rows = page.locator("#chart-loss tbody tr").all_inner_texts()

    # The losses are 4 / step.
    assert description == "Loss. a: now 0.2, from 0.2 to 4 over 20 steps."
    assert [row.split("\t") for row in rows[:2]] == [["a", "20", "0.2"], ["a", "19", "0.2105"]]
    assert len(rows) == 20


def test_the_heat_map_is_read_by_arrow_keys(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    heat_map = page.locator("#entropy-map")
    heat_map.wait_for()

    heat_map.focus()
    heat_map.press("ArrowLeft")
    heat_map.press("ArrowLeft")

    wait_for_text(page.locator("#entropy-readout"), r"^decoder 0 self, step 19: 1\.5 nats$")


def test_the_newest_pictures_are_shown_and_enlarged_by_keyboard(
    site: WebSite, run: str, open_page: Any
):
    del run
    page = open_page(site.port)
    first = page.get_by_role("button", name="Decoder layer 0, self attention")
    first.wait_for()
    page.wait_for_function(
        "() => [...document.querySelectorAll('#picture-list img')]"
        ".every((image) => image.naturalWidth > 0)"
    )

    first.press("Enter")
    viewer = page.get_by_role("dialog")
    wait_for_text(viewer, "Decoder layer 0, self attention")
    page.keyboard.press("ArrowRight")
    wait_for_text(viewer, "Decoder layer 1, self attention")
    page.keyboard.press("Escape")

    viewer.wait_for(state="hidden")
    assert first.evaluate("(button) => button === document.activeElement")


def test_pictures_of_the_whole_run_are_shown_in_their_newest_version(
    site: WebSite, run: str, open_page: Any
):
    page = open_page(site.port)
    page.locator("#picture-list img").first.wait_for()
    assert not page.locator("#overview").is_visible()
    folder = site.root / "a" / "overview"
    folder.mkdir()
    shutil.copy(GALLERY / "entropy.png", folder / "entropy.png")
    shutil.copy(GALLERY / "animation.png", folder / "decoder_layer0_self_attn_head1.png")

    entropy = page.get_by_role("img", name="Entropy by layer and step, over the whole run")
    entropy.wait_for()
    head = page.get_by_role("img", name="Decoder layer 0, self attention, head 1, over")
    head.wait_for()
    page.wait_for_function(DRAWN, arg=[712, 719])  # of animation.png
    box = head.bounding_box()
    first = entropy.get_attribute("src")
    assert first.startswith(f"/runs/{run}/overview/entropy.png?version=")
    shutil.copy(GALLERY / "layer_comparison.png", folder / "new.png")
    (folder / "new.png").rename(folder / "entropy.png")
    page.wait_for_function(LOADED, arg=806)  # its width, in place of 701
    assert entropy.get_attribute("src") != first
    assert head.bounding_box() == box

    page.get_by_role("button", name="head 1").press("Enter")
    wait_for_text(page.get_by_role("dialog"), r"head 1 \(over the whole run\)")
    page.keyboard.press("ArrowRight")
    wait_for_text(page.get_by_role("dialog"), "Entropy by layer and step")


def test_runs_are_chosen_by_keyboard_and_the_address_keeps_the_choice(
    site: WebSite, open_page: Any
):
    keys = [add_run(site, name) for name in ("a", "b", "c")]
    site.write_status(*(make_run(name, site.root / name) for name in ("a", "b", "c")))
    site.start()
    page = open_page(site.port)
    page.wait_for_function("() => document.querySelectorAll('#chart-loss .readout b').length === 3")

    page.keyboard.press("Tab")  # the link past the list
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # the newest run is left out
    page.wait_for_function("() => document.querySelectorAll('#chart-loss .readout b').length === 2")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the oldest is opened
    wait_for_text(page.locator("#detail-title"), "^a$")
    page.reload()

    wait_for_text(page.locator("#detail-title"), "^a$")
    page.wait_for_function("() => document.querySelectorAll('#chart-loss .readout b').length === 2")
    assert keys[0] in page.url
    assert keys[2] not in page.url
    assert page.locator("#run-list [aria-current=true]").inner_text().startswith("a")


def test_of_many_runs_all_are_listed_and_some_are_drawn(site: WebSite, open_page: Any):
    names = [f"sweep-{index}" for index in range(30)]
    for name in names[-5:]:
        add_run(site, name)
    site.write_status(*(make_run(name, site.root / name) for name in names))
    site.start()

    page = open_page(site.port)

    page.wait_for_function("() => document.querySelectorAll('#chart-loss .readout b').length === 4")
    assert page.locator("#run-list li").count() == 30
    assert page.locator("#run-list li").first.inner_text().startswith("sweep-29")


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

    site.write_status(make_run("a", site.root / "a"), checkpoints={"directories": [entry, others]})

    notes = page.locator("#average-notes li")
    notes.nth(1).wait_for()
    first, second = notes.all_inner_texts()
    assert first == "step_3.pt is not averaged: keys differ from step_4.pt"
    assert second.startswith("/ck waits for 2 more like the newest")


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_in_light_and_dark(
    site: WebSite, run: str, open_page: Any, scheme: str
):
    del run
    page = open_page(site.port, color_scheme=scheme)
    wait_for_text(loss_readout(page), "step 20")

    def tint(name: str) -> float:
        """Relative luminance of a colour of the page; WCAG 2.2, "relative luminance"."""
        value = page.evaluate(
            f"getComputedStyle(document.documentElement).getPropertyValue('{name}')"
        ).strip()
        parts = [int(value[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((tint(one), tint(other)))
        return (high + 0.05) / (low + 0.05)

    for back in ("--card", "--back"):
        for text in ("--text", "--muted", "--accent", "--good", "--warn", "--bad"):
            assert contrast(text, back) >= 4.5, (text, back)
    for index in range(8):  # lines need 3, as graphics do
        assert contrast(f"--run-{index}", "--card") >= 3
    assert (tint("--back") > 0.5) == (scheme == "light")


def test_nothing_is_wider_than_a_phone(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port, **PHONE)
    wait_for_text(loss_readout(page), "step 20")
    page.locator("#picture-list img").first.wait_for()

    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#chart-loss canvas").bounding_box()["width"] <= 360


def test_a_page_that_nobody_sees_holds_no_connection(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")

    with page.expect_event(
        "requestfailed", lambda request: "/events" in request.url
    ):  # closing the stream ends its request
        page.evaluate(PRETEND, {"hidden": True})
    append(site.root / "a" / "history.jsonl", make_line("a", 40))
    page.evaluate(PRETEND, {"hidden": False})

    wait_for_text(loss_readout(page), "step 40")
