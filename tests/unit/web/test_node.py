import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from web_site import WebSite, make_rank, make_run

from tracksided.web import ending, patience
from tracksided.web import node as node_module
from tracksided.web.node import Node
from tracksided.web.served import run_key


@pytest.fixture
def site(tmp_path: Path) -> WebSite:
    return WebSite(tmp_path)


def looking_at(site: WebSite, *names: str) -> Node:
    site.write_status(*(make_run(name, site.root / name) for name in names))
    node = Node(site.directory)
    node.look()
    return node


def overview_once_over(site: WebSite, node: Node) -> dict[str, Any]:
    """What is said of the only run once the daemon is done with it."""
    site.write_status()
    node.look()
    asyncio.run(node.learn_endings())
    (shown,) = json.loads(node.overview())["runs"]
    return dict(shown)


def test_a_run_that_is_watched_keeps_its_place(site: WebSite, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node_module, "MAX_VIEWS", 2)
    node = looking_at(site, "a", "b", "c")
    keys = [run_key(name, site.root / name) for name in ("a", "b", "c")]

    first, second = node.view(keys[0]), node.view(keys[1])

    assert node.view(keys[2]) is None  # both places are in use
    assert node.view(keys[0]) is first
    assert second is not None
    second.last_asked -= node_module.UNWATCHED_S  # nobody has asked for it since
    assert node.view(keys[2]) is not None
    assert node.view(keys[0]) is first


def test_runs_that_are_over_make_room_the_oldest_first(
    site: WebSite, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(node_module, "MAX_KNOWN", 2)
    node = looking_at(site, "a", "b")
    site.write_status(make_run("c", site.root / "c"))

    node.look()

    known = [node.directory_of(run_key(name, site.root / name)) for name in ("a", "b", "c")]
    assert known == [None, site.root / "b", site.root / "c"]


def test_runs_are_known_though_nobody_asks(site: WebSite, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node_module, "LOOK_S", 0.001)
    node, key = looking_at(site), run_key("a", site.root / "a")

    async def live() -> None:
        looking = asyncio.create_task(node.keep_looking())
        site.write_status(make_run("a", site.root / "a"))
        while node.directory_of(key) is None:  # noqa: ASYNC110 - it tells of nothing
            await asyncio.sleep(0.001)
        looking.cancel()

    asyncio.run(asyncio.wait_for(live(), 60))
    site.write_status()
    node.look()

    assert json.loads(node.overview())["runs"][0]["state"] == "ended"


def test_a_run_that_is_over_is_told_with_its_final_numbers(site: WebSite):
    ranks = [make_rank(0), make_rank(1, drops={"ring_full": 1})]
    alert = {"id": "a1", "rule": "stalled_trainer"}
    seen = make_run("a", site.run_directory("a"), ranks=ranks, problem="disk full", alerts=[alert])
    site.write_status(seen)
    node = Node(site.directory)
    node.look()
    finals = [
        {"rank": 0, "last_step": 150, "dropped": {}, "corrupt": 0, "torn": 0},
        {"rank": 1, "last_step": 149, "dropped": {"ring_full": 7}, "corrupt": 2, "torn": 1},
    ]
    site.write_totals("a", state="killed", step=150, ranks=finals)

    shown = overview_once_over(site, node)

    assert (shown["state"], shown["over"], shown["alive"]) == ("killed", True, False)
    assert (shown["committed_step"], shown["waiting"]) == (150, 0)  # 100 and 2 when last seen
    assert (shown["problem"], shown["active_alerts"]) == (None, [])
    assert [(rank["alive"], rank["lag_bytes"]) for rank in shown["ranks"]] == [(False, 0)] * 2
    assert [rank["last_step"] for rank in shown["ranks"]] == [150, 149]
    assert [rank["drops"] for rank in shown["ranks"]] == [{}, {"ring_full": 7}]
    assert [rank["damaged"] for rank in shown["ranks"]] == [0, 3]


def test_of_a_run_without_totals_it_is_told_that_it_ended(site: WebSite):
    node = looking_at(site, "a")
    site.run_directory("a")
    site.write_totals("an-older-one", state="finished", step=7, directory="a")

    shown = overview_once_over(site, node)

    assert (shown["state"], shown["over"], shown["committed_step"]) == ("ended", True, 100)


def test_a_run_that_goes_on_is_asked_again_how_it_ended(site: WebSite):
    node = looking_at(site, "a")
    site.run_directory("a")
    site.write_totals("a", state="killed", step=130)
    first = overview_once_over(site, node)

    site.write_status(make_run("a", site.root / "a"))
    node.look()
    again = json.loads(node.overview())["runs"][0]
    site.write_totals("a", state="finished", step=200)
    last = overview_once_over(site, node)

    found = [(entry["state"], entry["committed_step"]) for entry in (first, again, last)]
    assert found == [("killed", 130), ("running", 100), ("finished", 200)]


def test_totals_that_cannot_be_read_now_are_read_later(
    site: WebSite, monkeypatch: pytest.MonkeyPatch
):
    node = looking_at(site, "a")
    site.run_directory("a")
    site.write_totals("a", state="finished", step=130)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "training_statistics.json")

    with monkeypatch.context() as broken:
        broken.setattr(ending, "read_object", fail)
        broken.setattr(patience, "FRESH_S", 0.0)
        before = overview_once_over(site, node)
    asyncio.run(node.learn_endings())

    after = json.loads(node.overview())["runs"][0]
    assert (before["state"], after["state"]) == ("ended", "finished")


def test_a_status_that_is_gone_or_torn_says_nothing(site: WebSite):
    node = looking_at(site, "a")
    (site.directory / "status.json").write_text('{"runs": [', encoding="utf-8")
    node.look()
    torn = node.served

    (site.directory / "status.json").unlink()
    node.look()

    assert (torn, node.served, node.silent_s, node.is_up) == (None, None, None, False)
