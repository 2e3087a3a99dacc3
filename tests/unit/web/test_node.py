import asyncio
import json
from pathlib import Path

import pytest
from web_site import WebSite, make_run

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


def test_a_status_that_is_gone_or_torn_says_nothing(site: WebSite):
    node = looking_at(site, "a")
    (site.directory / "status.json").write_text('{"runs": [', encoding="utf-8")
    node.look()
    torn = node.served

    (site.directory / "status.json").unlink()
    node.look()

    assert (torn, node.served, node.silent_s, node.is_up) == (None, None, None, False)
