"""A site that is stopped at the end of the test, a run in it, a real daemon, a real browser."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shown_page import add_run
from web_site import WebSite


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WebSite]:
    site = WebSite(tmp_path)
    yield site
    site.stop()


@pytest.fixture
def run(site: WebSite) -> str:
    """One run with twenty steps and a picture, seen through a running server; its key."""
    return add_run(site, "a", start=True)


CHROMIUM = shutil.which("chromium")
# No sandbox: tests may run as root. Nothing is asked of the network.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)

OpenPage = Callable[..., Any]
"""Opens a page at a port and returns it; keywords are those of a browser's context."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not here")
    if CHROMIUM is None:
        pytest.skip("chromium is not here (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Open pages; the test fails if one of them logs an error or asks another server."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(port: int, fragment: str = "", **options: Any) -> Any:
        context = browser.new_context(locale="en-US", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        own = f"http://127.0.0.1:{port}/"
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: note(message.type, message.text))
        page.on(
            "request",
            lambda request: None if request.url.startswith(own) else complaints.append(request.url),
        )
        page.goto(own + fragment)
        return page

    def note(kind: str, text: str) -> None:
        # A server that is stopped, or full, on purpose is news to the browser.
        is_meant = "net::ERR_" in text or "status of 503" in text
        if kind in {"error", "warning"} and not is_meant:
            complaints.append(text)

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
