"""The page in a real browser, by keyboard, by ear, on a phone, in light and dark."""

from typing import Any

import pytest
from shown_page import add_run, loss_readout, wait_for_text
from web_site import WebSite, make_run

pytestmark = pytest.mark.integration

PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}


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


def test_the_way_to_the_curves_keeps_the_choice_of_runs(site: WebSite, run: str, open_page: Any):
    page = open_page(site.port, f"#runs={run}&open={run}")
    wait_for_text(loss_readout(page), "step 20")

    page.get_by_role("link", name="Skip to the curves").press("Enter")

    assert page.evaluate("() => document.activeElement.id") == "content"
    assert page.url.endswith(f"#runs={run}&open={run}")


def test_a_bookmark_is_followed_while_the_page_is_open(site: WebSite, open_page: Any):
    first, second = (add_run(site, name) for name in ("first", "second"))
    site.write_status(*(make_run(name, site.root / name) for name in ("first", "second")))
    site.start()
    page = open_page(site.port, f"#runs={first}&open={first}")
    wait_for_text(page.locator("#detail-title"), "^first$")

    page.evaluate("(hash) => { location.hash = hash; }", f"#runs={second}&open={second}")

    wait_for_text(page.locator("#detail-title"), "^second$")
    wait_for_text(loss_readout(page), "step 20")
    assert page.get_by_role("checkbox", checked=True).count() == 1


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
