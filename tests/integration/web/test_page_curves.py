"""The page in a real browser: curves and heat map, what they draw, what stays when steps come."""

from collections.abc import Mapping
from typing import Any

import pytest
from shown_page import add_run, loss_readout, wait_for_text
from web_site import WebSite, append, make_line, make_run

from tracksided.web.served import run_key

pytestmark = pytest.mark.integration

LIGHT = {"color_scheme": "light", "viewport": {"width": 1360, "height": 900}}
FIRST_RUN = (10, 108, 196)  # --run-0 of page.css in light colours
# Cividis from its low to its high end; Nunez et al. 2018, doi:10.1371/journal.pone.0199239.
LOWEST, HIGHEST = [0, 34, 78], [254, 232, 56]
BROKEN = {"loss": None, "nonfinite": ["loss"]}

# Which parts of the plot's width, in tenths, have a pixel of this colour.
TENTHS = """([selector, red, green, blue]) => {
    const canvas = document.querySelector(selector);
    const over = document.querySelector(selector.replace("canvas", ".u-over"));
    const ratio = canvas.width / canvas.clientWidth;
    const left = Math.round(over.offsetLeft * ratio);
    const width = Math.round(over.clientWidth * ratio);
    const image = canvas.getContext("2d").getImageData(left, 0, width, canvas.height);
    const found = new Set();
    for (let place = 0; place < image.data.length; place += 4) {
        const [r, g, b, opacity] = image.data.slice(place, place + 4);
        if (r === red && g === green && b === blue && opacity === 255) {
            found.add(Math.floor((10 * ((place / 4) % width)) / width));
        }
    }
    return [...found].sort();
}"""
# Colours in the middle of each cell of the heat map, row by row.
CELLS = """([rows, columns, labels]) => {
    const canvas = document.querySelector("#entropy-map");
    const context = canvas.getContext("2d");
    const ratio = canvas.width / canvas.clientWidth;
    const high = (canvas.clientHeight - 20) / rows;
    const wide = (canvas.clientWidth - labels) / columns;
    const image = context.getImageData(0, 0, canvas.width, canvas.height);
    return Array.from({length: rows}, (_, row) => Array.from({length: columns}, (_, column) => {
        const x = Math.floor((labels + (column + 0.5) * wide) * ratio);
        const place = 4 * (Math.floor((row + 0.4) * high * ratio) * canvas.width + x);
        return [...image.data.slice(place, place + 3)];
    }));
}"""
PICTURES_ARE_HERE = """() => {
    const images = [...document.querySelectorAll("#picture-list img")];
    return images.length === 3 && images.every((image) => image.naturalWidth > 0);
}"""


def add_steps(site: WebSite, *lines: Mapping[str, Any]) -> None:
    append(site.root / "a" / "history.jsonl", *lines)


def show(site: WebSite, **lines: list[dict[str, Any]]) -> None:
    """Serve runs with these lines."""
    for name, of_run in lines.items():
        append(site.run_directory(name) / "history.jsonl", *of_run)
    site.write_status(*(make_run(name, site.root / name) for name in lines))
    site.start()


def step_at(page: Any, part: float) -> str:
    """What the readout says at this part of the width of the loss curve."""
    box = page.locator("#chart-loss .u-over").bounding_box()
    page.mouse.move(box["x"] + part * (box["width"] - 2), box["y"] + 60)
    found: str = loss_readout(page).inner_text()
    return found.rsplit("step ", maxsplit=1)[-1]


def zoom_in(page: Any) -> None:
    """Drag from a quarter to the half of the loss curve."""
    box = page.locator("#chart-loss .u-over").bounding_box()
    row = box["y"] + 60
    page.mouse.move(box["x"] + 0.25 * box["width"], row)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], row, steps=4)
    page.mouse.up()


def test_curves_reach_to_the_newest_step(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port, **LIGHT)
    wait_for_text(loss_readout(page), "step 20")

    for newest in (30, 40):
        add_steps(site, make_line("a", newest))
        wait_for_text(loss_readout(page), f"step {newest}")
        assert (step_at(page, 0), step_at(page, 1)) == ("1", str(newest))
        page.mouse.move(1, 1)
    drawn = page.evaluate(TENTHS, ["#chart-loss canvas", *FIRST_RUN])
    assert drawn == list(range(10))


def test_a_zoom_stays_while_steps_come_until_it_is_taken_back(
    site: WebSite, run: str, open_page: Any
):
    del run
    page = open_page(site.port, **LIGHT)
    wait_for_text(loss_readout(page), "step 20")
    zoom_in(page)
    # Of 20 steps a quarter is at 5.75, the half at 10.5: 6 to 10 are left.
    assert (step_at(page, 0), step_at(page, 1)) == ("6", "10")

    page.mouse.move(1, 1)
    add_steps(site, make_line("a", 21))
    wait_for_text(page.locator("#tiles"), r"Loss\s*0\.1905")  # 4 / 21
    assert (step_at(page, 0), step_at(page, 1)) == ("6", "10")
    page.locator("#chart-loss").get_by_role("button", name="log").click()
    assert (step_at(page, 0), step_at(page, 1)) == ("6", "10")

    page.locator("#chart-loss .u-over").dblclick()
    assert (step_at(page, 0), step_at(page, 1)) == ("1", "21")


def test_a_zoom_that_shows_none_of_the_runs_is_taken_back(site: WebSite, open_page: Any):
    late = [make_line("late", step) for step in range(100, 120)]
    show(site, early=[make_line("early", step) for step in range(1, 21)], late=late)
    early = run_key("early", site.root / "early")
    page = open_page(site.port, f"#runs={early}&open={early}", **LIGHT)
    wait_for_text(loss_readout(page), "step 20")
    zoom_in(page)
    page.mouse.move(1, 1)

    page.get_by_role("checkbox", name="Draw late").check()
    wait_for_text(loss_readout(page), "newest")
    assert (step_at(page, 0), step_at(page, 1)) == ("6", "10")
    page.get_by_role("checkbox", name="Draw early").uncheck()
    wait_for_text(loss_readout(page), "step 119")
    assert (step_at(page, 0), step_at(page, 1)) == ("100", "119")


def test_a_loss_that_is_not_finite_is_told_from_one_that_is_unknown(
    site: WebSite, run: str, open_page: Any
):
    del run
    page = open_page(site.port)
    wait_for_text(loss_readout(page), "step 20")

    add_steps(site, make_line("a", 21, **BROKEN))

    wait_for_text(page.locator("#tiles"), r"Loss\s*NaN/Inf")
    wait_for_text(loss_readout(page), "NaN/Inf.*step 21")
    description = page.locator("#chart-loss-text").text_content()
    assert description == (
        "Loss. a: now NaN/Inf, from 0.2 to 4 over 20 steps, NaN or infinite at 1."
    )
    add_steps(site, make_line("a", 22, loss=None))
    wait_for_text(page.locator("#tiles"), "Loss\\s*\u2013")


def test_a_value_between_two_gaps_is_drawn(site: WebSite, open_page: Any):
    lines = [make_line("a", step, **({} if step % 2 else BROKEN)) for step in range(1, 41)]
    show(site, a=lines)

    page = open_page(site.port, **LIGHT)
    wait_for_text(loss_readout(page), "step 40")

    assert page.evaluate(TENTHS, ["#chart-loss canvas", *FIRST_RUN]) == list(range(10))


def test_a_gap_stays_one_where_several_runs_are_drawn(site: WebSite, open_page: Any):
    # Losses of a are unknown from step 40 to 70; b has other steps than a.
    lines = [
        make_line("a", step, loss=None if 40 <= step <= 70 else 1.0) for step in range(1, 101, 3)
    ]
    show(site, b=[make_line("b", step) for step in range(1, 101, 2)], a=lines)

    page = open_page(site.port, **LIGHT)
    wait_for_text(loss_readout(page), "newest")
    assert loss_readout(page).locator("b").count() == 2

    drawn = page.evaluate(TENTHS, ["#chart-loss canvas", *FIRST_RUN])
    assert drawn == [0, 1, 2, 3, 7, 8, 9]


def test_the_heat_map_has_the_colour_of_each_value(site: WebSite, open_page: Any):
    def line(step: int, *entropies: float | None) -> dict[str, Any]:
        layers = [
            {"layer": layer, "type": "self_attention", "entropy": entropy}
            for layer, entropy in enumerate(entropies)
        ]
        return make_line("a", step, attention={"encoder": [], "decoder": layers})

    # A negative one is of foreign make: it must not keep the rest from being drawn.
    show(site, a=[line(1, 2.0, 0.0), line(2, -1.0, 2.0), line(3, None, 2.0)])
    page = open_page(site.port, **LIGHT)
    page.locator("#entropy-map").wait_for()

    rows = page.evaluate(CELLS, [2, 3, 118])

    assert rows[0][:2] == [HIGHEST, LOWEST]
    assert rows[1] == [LOWEST, HIGHEST, HIGHEST]
    assert rows[0][2] == [238, 241, 245]  # --sunk: unknown


def test_the_heat_map_takes_in_steps_while_it_is_read(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    heat_map = page.locator("#entropy-map")
    heat_map.wait_for()
    heat_map.focus()
    heat_map.press("ArrowLeft")
    wait_for_text(page.locator("#entropy-readout"), "step 20")

    add_steps(site, make_line("a", 21))
    wait_for_text(page.locator("#tiles"), r"Loss\s*0\.1905")

    assert page.locator("#entropy-readout").inner_text() == "decoder 0 self, step 20: 1.5 nats"
    assert heat_map.get_attribute("aria-label") == "decoder 0 self, step 20: 1.5 nats"
    heat_map.press("ArrowRight")
    wait_for_text(page.locator("#news"), "^decoder 0 self, step 21: 1.5 nats$")


def test_a_run_whose_files_are_gone_says_so(site: WebSite, run: str, open_page: Any):
    del run
    page = open_page(site.port)
    page.wait_for_function(PICTURES_ARE_HERE)
    assert not page.locator("#detail-problem").is_visible()

    (site.root / "a").rename(site.root / "elsewhere")

    wait_for_text(page.locator("#detail-problem"), f"not in {site.root / 'a'} any more")
    page.locator("#maps").wait_for(state="hidden")
    add_run(site, "a")
    page.locator("#detail-problem").wait_for(state="hidden")
    wait_for_text(loss_readout(page), "step 20")
