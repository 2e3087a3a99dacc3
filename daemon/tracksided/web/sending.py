"""Pictures on their way to browsers, in bounded memory however slowly they are taken."""

from collections.abc import AsyncIterator

from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from tracksided.web.pictures import Picture

MAX_HELD_BYTES = 256 << 20  # a quarter of what the process may have
PIECE_BYTES = 64 << 10  # as much as the server buffers before it waits for the browser


class Held:
    """Counts the bytes of pictures that are being sent, up to a bound."""

    def __init__(self, free_bytes: int = MAX_HELD_BYTES) -> None:
        self.free_bytes = free_bytes


class PictureResponse(StreamingResponse):
    """Sends a picture piece by piece, or says that too much is being sent."""

    def __init__(self, picture: Picture, held: Held) -> None:
        headers = {
            "ETag": f'"{picture.version}"',
            "Content-Length": str(len(picture.content)),
        }
        super().__init__(_pieces(picture.content), headers=headers, media_type="image/png")
        self._num_bytes = len(picture.content)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        if self._num_bytes > self._held.free_bytes:
            full = "too many pictures are being sent; ask again later\n"
            await PlainTextResponse(full, 503, {"Retry-After": "10"})(scope, receive, send)
            return
        self._held.free_bytes -= self._num_bytes
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._held.free_bytes += self._num_bytes


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]
