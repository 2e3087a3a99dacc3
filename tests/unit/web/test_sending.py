import asyncio
from typing import Any

from starlette.types import Message

from tracksided.web.pictures import Picture
from tracksided.web.sending import PIECE_BYTES, Held, PictureResponse

PICTURE = Picture(bytes(range(256)) * 1024, "7-8")  # 256 KiB


class Browser:
    """Takes a picture, but not before it is told to."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.is_answered = asyncio.Event()
        self.takes = asyncio.Event()
        self.leaves = asyncio.Event()

    async def get(self, held: Held) -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await PictureResponse(PICTURE, held)(scope, self._receive, self._send)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def pieces(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message.get("body")]

    async def _send(self, message: Message) -> None:
        self.messages.append(message)
        self.is_answered.set()
        await self.takes.wait()

    async def _receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def test_a_picture_is_sent_piece_by_piece():
    async def ask() -> Browser:
        browser = Browser()
        browser.takes.set()
        await browser.get(Held())
        return browser

    browser = asyncio.run(ask())

    assert browser.status == 200
    assert b"".join(browser.pieces) == PICTURE.content
    assert max(map(len, browser.pieces)) == PIECE_BYTES
    headers = dict(browser.messages[0]["headers"])
    assert headers[b"content-length"] == b"262144"
    assert (headers[b"content-type"], headers[b"etag"]) == (b"image/png", b'"7-8"')


def test_browsers_that_take_nothing_hold_a_bounded_number_of_bytes():
    async def ask() -> tuple[list[int], int]:
        held = Held(3 * len(PICTURE.content))
        slow, gone, last = (Browser() for _ in range(3))
        sending = [asyncio.create_task(browser.get(held)) for browser in (slow, gone, last)]
        await asyncio.gather(*(browser.is_answered.wait() for browser in (slow, gone, last)))
        refused, served = Browser(), Browser()
        refused.takes.set()
        await refused.get(held)
        gone.leaves.set()
        await sending[1]
        served.takes.set()
        await served.get(held)
        for browser in (slow, last):
            browser.takes.set()
        await asyncio.gather(*sending)
        return [browser.status for browser in (slow, refused, served, last)], held.free_bytes

    statuses, free = asyncio.run(ask())

    assert statuses == [200, 503, 200, 200]
    assert free == 3 * len(PICTURE.content)
