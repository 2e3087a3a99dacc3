import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from tracksided.web.guard import Guard, host_name


def ask(*, only_loopback: bool = True, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Return status and headers of the answer to one request."""
    guard = Guard(PlainTextResponse("ok"), names=["Proxy.Example"], only_loopback=only_loopback)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": raw}
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    asyncio.run(guard(scope, receive, send))
    start = messages[0]
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9470",
        "localhost.",
        "127.0.0.1:8000",
        "[::1]:9470",
        "127.8.8.8",
        "proxy.example",
        "PROXY.example:443",
    ],
)
def test_names_and_addresses_of_this_machine_are_answered(host: str):
    assert ask(host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "[::1",
        "[::1]x",
        "localhost:80:80",
        "evil@localhost",
    ],
)
def test_a_rebound_name_is_refused(host: str):
    assert ask(host=host)[0] == 421


def test_a_request_without_host_is_refused():
    assert ask()[0] == 421


def test_with_remote_access_any_address_is_fine_but_no_foreign_name():
    assert ask(only_loopback=False, host="10.0.0.1:9470")[0] == 200
    assert ask(only_loopback=False, host="evil.example")[0] == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"])
def test_only_reading_methods_are_answered(method: str):
    status, headers = ask(method=method, host="localhost")

    assert status == 405
    assert headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_foreign_page_gets_nothing_but_may_link_here(site: str):
    assert ask(host="localhost", sec_fetch_site=site, sec_fetch_mode="cors")[0] == 403
    assert ask(host="localhost", sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 200
    assert ask(host="localhost", sec_fetch_site="same-origin", sec_fetch_mode="cors")[0] == 200


@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_tells_the_browser_to_be_strict(host: str):
    _, headers = ask(host=host)

    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_name_in_a_host_header_is_found():
    assert host_name("[fe80::1]:80") == "fe80::1"
    assert host_name("Node7.:9470") == "node7"
