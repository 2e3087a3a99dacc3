"""The page in a real browser: what it shows of runs, and how it follows them."""

import shutil
from typing import Any

import pytest
from shown_page import DOCS, add_run, loss_readout, wait_for_text
from web_site import WebSite, append, make_line, make_rank, make_run

pytestmark = pytest.mark.integration

PRETEND = """({hidden}) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""
GALLERY = DOCS / "gallery"
DRAWN = """([width, height]) => {
    const still = document.querySelector("#overview-list canvas:not([hidden])");
    return still.width === width && still.height === height;
}"""
LOADED = "(width) => document.querySelector('#overview-list img').naturalWidth === width"


def start_two(site: WebSite) -> list[dict[str, Any]]:
    """Show two runs that train, `short` and `long`; return them as the status has them."""
    names = ("short", "long")
    for name in names:
        add_run(site, name)
    runs = [make_run(name, site.root / name) for name in names]
    site.write_status(*runs)
    site.start()
    return runs


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


def test_of_a_run_that_is_not_drawn_the_end_is_told(site: WebSite, open_page: Any):
    short, long = start_two(site)
    page = open_page(site.port)
    page.wait_for_function("() => document.querySelectorAll('#chart-loss .readout b').length === 2")

    # Its trainer is gone, so that it is not drawn any more; then come its last steps and its end.
    site.write_status(short | {"ranks": [make_rank(0, alive=False)]}, long)
    page.wait_for_function("() => document.querySelectorAll('#chart-loss .readout b').length === 1")
    append(site.root / "short" / "history.jsonl", make_line("short", 130))
    site.write_totals("short", state="finished", step=130)
    site.write_status(long)

    entry = page.locator("#run-list li").filter(has_text="short")
    wait_for_text(entry, r"finished . step 130$")
    assert not entry.get_by_role("checkbox").is_checked()


def test_a_run_that_somebody_opened_stays_open_when_it_ends(site: WebSite, open_page: Any):
    _, long = start_two(site)
    page = open_page(site.port)
    wait_for_text(page.locator("#detail-title"), "^long$")  # the newest, by default

    page.get_by_role("button", name="short").click()
    wait_for_text(page.locator("#detail-title"), "^short$")
    site.write_totals("short", state="killed", step=20)
    site.write_status(long)

    wait_for_text(page.locator("#run-list li").filter(has_text="short"), "killed")
    assert page.locator("#detail-title").inner_text() == "short"
    assert page.locator("#chart-loss .readout b").count() == 2


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


def test_a_page_that_is_opened_in_the_background_waits_until_it_is_seen(
    site: WebSite, run: str, open_page: Any
):
    del run
    page = open_page(site.port)
    page.context.add_init_script(f"({PRETEND})({{hidden: true}})")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.evaluate("() => new Promise(requestAnimationFrame)")

    assert [url for url in asked if "/events" in url] == []
    page.evaluate(PRETEND, {"hidden": False})
    wait_for_text(loss_readout(page), "step 20")


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
