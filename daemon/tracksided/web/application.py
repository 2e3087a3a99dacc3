"""The addresses that are served."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tracksided.web.guard import Guard
from tracksided.web.health import health
from tracksided.web.metrics import metrics_runs, render_metrics
from tracksided.web.node import Node
from tracksided.web.pictures import read_picture
from tracksided.web.sending import Held, PictureResponse
from tracksided.web.stream import EventResponse, EventStream, Places
from tracksided.web.turns import Turns

STATIC = Path(__file__).parent / "static"


def build_application(node: Node, *, names: Iterable[str], only_loopback: bool) -> ASGIApp:
    """Build what uvicorn serves.

    Args:
        node: what is shown.
        names: by which the server may be asked for, besides addresses.
        only_loopback: whether it listens to this machine only.
    """
    endpoints = _Endpoints(node)
    routes = [
        Route("/", endpoints.page),
        Route("/metrics", endpoints.metrics),
        Route("/health", endpoints.health),
        Route("/events", endpoints.events),
        Route("/runs/{key}/{folder}/{name}", endpoints.picture),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes), names=names, only_loopback=only_loopback)


class _Endpoints:
    """Turns requests into answers; what is shown is made elsewhere."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._places = Places()
        self._turns = Turns()
        self._held = Held()

    async def page(self, request: Request) -> Response:
        del request
        return FileResponse(STATIC / "index.html")

    async def metrics(self, request: Request) -> Response:
        del request
        self._node.look()
        served = self._node.served
        is_up = self._node.is_up
        runs = metrics_runs(served) if served is not None and is_up else ()
        content = render_metrics(served, await self._node.readings(runs), is_up=is_up)
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(self, request: Request) -> Response:
        del request
        self._node.look()
        is_well, answer = health(self._node.served, self._node.silent_s)
        return JSONResponse(answer, 200 if is_well else 503)

    async def events(self, request: Request) -> Response:
        keys = request.query_params.get("runs", "").split(",")
        # The header is a browser's that comes back by itself, `after` that of a page that does.
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        stream = EventStream(self._node, keys, after)
        return EventResponse(stream, self._places)

    async def picture(self, request: Request) -> Response:
        self._node.look()
        key, folder, name = (request.path_params[part] for part in ("key", "folder", "name"))
        directory = self._node.directory_of(key)
        found = None
        if directory is not None:
            reading = partial(read_picture, directory, folder, name)
            try:
                found = await self._turns.take(key, reading)
            except TimeoutError:
                return PlainTextResponse("the file system of this run does not answer\n", 504)
            except OSError as error:
                return PlainTextResponse(f"it cannot be read: {error.strerror}\n", 503)
        if found is None:
            return PlainTextResponse("there is no such picture\n", 404)
        version = f'"{found.version}"'
        if request.headers.get("if-none-match") == version:
            return Response(status_code=304, headers={"ETag": version})
        return PictureResponse(found, self._held)
