import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from shown_page import PICTURE, add_run
from starlette.types import ASGIApp, Message
from web_site import WebSite, make_run

from tracksided.web import application, turns
from tracksided.web.application import build_application
from tracksided.web.node import Node
from tracksided.web.pictures import Picture, read_picture

DEADLINE_S = 30.0
NAME = "decoder_layer0_self_attn.png"


async def get(app: ASGIApp, path: str) -> tuple[int, bytes]:
    """Return status and body."""
    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()  # whoever asks stays

    await app(scope, receive, send)
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages)


def test_a_picture_that_does_not_come_is_given_up_on_and_others_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    site = WebSite(tmp_path)
    well, hung, broken = (add_run(site, name) for name in ("well", "hung", "broken"))
    site.write_status(*(make_run(name, tmp_path / name) for name in ("well", "hung", "broken")))
    hang = threading.Event()

    def read(directory: Path, folder: str, name: str) -> Picture | None:
        if directory.name == "hung":
            hang.wait(DEADLINE_S)
        if directory.name == "broken":
            raise OSError(5, "Input/output error")
        return read_picture(directory, folder, name)

    monkeypatch.setattr(application, "read_picture", read)

    async def ask() -> tuple[list[tuple[int, bytes]], tuple[int, bytes], tuple[int, bytes]]:
        app = build_application(Node(site.directory), names=(), only_loopback=True)
        monkeypatch.setattr(turns, "PATIENCE_S", 0.02)
        no_answers = [await get(app, f"/runs/{hung}/step_20/{NAME}") for _ in range(4)]
        monkeypatch.setattr(turns, "PATIENCE_S", DEADLINE_S)
        picture = await get(app, f"/runs/{well}/step_20/{NAME}")
        error = await get(app, f"/runs/{broken}/step_20/{NAME}")
        hang.set()
        return no_answers, picture, error

    no_answers, picture, error = asyncio.run(ask())

    assert no_answers == [(504, b"the file system of this run does not answer\n")] * 4
    assert picture == (200, PICTURE.read_bytes())
    assert error == (503, b"it cannot be read: Input/output error\n")
