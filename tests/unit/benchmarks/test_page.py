"""docs/performance.md is what its generator makes of the stored results."""

from pathlib import Path

import page
import pytest
import stored
from catalog import CATALOG

ROOT = Path(__file__).parents[3]
FULL_RUN = [entry.name for entry in CATALOG if entry.is_default]


def test_the_page_is_made_from_the_stored_results() -> None:
    made = page.render(stored.load(page.RESULTS))

    assert page.PAGE.read_text(encoding="utf-8") == made, "run make performance"


def test_every_benchmark_has_its_script() -> None:
    assert [entry.name for entry in CATALOG if not (page.HERE / f"{entry.name}.py").exists()] == []


@pytest.mark.parametrize("name", FULL_RUN)
def test_a_benchmark_of_a_full_run_that_has_no_results_is_named(name: str) -> None:
    results = stored.load(page.RESULTS)
    del results[name]

    with pytest.raises(page.MissingResult, match=f"no results of {name}, which"):
        page.render(results)


def test_a_table_that_is_not_there_is_named() -> None:
    results = stored.load(page.RESULTS)
    results["tap"]["tables"].pop("hooks")

    with pytest.raises(page.MissingResult, match="tap have no table 'hooks', but monitors"):
        page.render(results)


def test_a_row_that_is_not_there_is_named() -> None:
    shown = page.Shown(stored.load(page.RESULTS))

    with pytest.raises(page.MissingResult, match="no row 'nobody' with a column 'CPU'"):
        shown.value("tap", "monitors", "nobody", "CPU")


def test_every_limit_of_a_full_run_is_on_the_page() -> None:
    results = stored.load(page.RESULTS)
    text = page.PAGE.read_text(encoding="utf-8")

    whats = [limit["what"] for name in FULL_RUN for limit in results[name]["limits"]]
    assert len(whats) > 15
    assert [what for what in whats if what not in text] == []


def test_machines_that_differ_are_listed_with_what_ran_there() -> None:
    machine = {"cpu": "A", "cores": 2, "memory_gib": 4.0, "kernel": "6.1"}
    other = machine | {"cpu": "B"}
    shown = page.Shown({"one": {"machine": machine}, "two": {"machine": other}})

    assert shown.machines().splitlines() == [
        "- A, 2 cores, 4.0 GiB of memory, Linux 6.1: `one`",
        "- B, 2 cores, 4.0 GiB of memory, Linux 6.1: `two`",
    ]
