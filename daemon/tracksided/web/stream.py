"""``/events``: what changes, as server-sent events.

Each event is JSON. ``overview``: the daemon and all runs. Of each run that is asked for:
``history`` (all that is kept), ``rows`` (steps after those that were sent) and ``run`` (alerts,
averages, pictures). The id of an event says how far each run's rows were sent: a browser
that comes back with it gets what it missed, and nothing twice.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tracksided.sinks.json_file import plain
from tracksided.web.node import Node
from tracksided.web.run_view import RunView

MAX_CLIENTS = 32
MAX_RUNS = 8  # that one browser watches at once
LOOK_S = 0.5
HEARTBEAT_S = 15.0  # a proxy that hears nothing for long hangs up
RETRY_MS = 2000

_POSITION = re.compile(r"([0-9a-f]{12}):([0-9a-f]{8}):([0-9]{1,15})")


class Places:
    """Counts who listens, up to `MAX_CLIENTS`."""

    def __init__(self) -> None:
        self.free = MAX_CLIENTS


class EventStream:
    """What one browser is sent, from its connection to its end."""

    def __init__(self, node: Node, keys: Iterable[str], last_event_id: str) -> None:
        """Begin where the browser stopped.

        Args:
            node: what is looked at.
            keys: of the runs that are watched; unknown ones are left out.
            last_event_id: of the last event that the browser got, empty at first.
        """
        self._node = node
        self._keys = tuple(dict.fromkeys(keys))[:MAX_RUNS]
        self._positions = _read_positions(last_event_id)
        self._sent: dict[tuple[str, str], str] = {}

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield events without end."""
        yield f"retry: {RETRY_MS}\n\n"
        quiet_s = 0.0
        while True:
            news = await self._look()
            quiet_s = 0.0 if news else quiet_s + LOOK_S
            if quiet_s >= HEARTBEAT_S:
                news, quiet_s = ": all is quiet\n\n", 0.0
            if news:
                yield news
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> str:
        self._node.look()
        views = [view for view in map(self._node.view, self._keys) if view is not None]
        await asyncio.gather(self._node.learn_endings(), *(view.refresh() for view in views))
        # In this order: an id must not count rows that come only after it.
        overview = tuple(self._changed("overview", "", self._node.overview()))
        return "".join((*overview, *(event for view in views for event in self._of_run(view))))

    def _of_run(self, view: RunView) -> Iterator[str]:
        serial, number = self._positions.get(view.key, ("", 0))
        rows = view.curves.rows_from(number) if serial == view.serial else None
        self._positions[view.key] = (view.serial, view.curves.num_rows)
        if rows is None:
            columns = view.curves.columns()
            document = {"key": view.key, "cut": view.is_cut, "columns": columns}
            yield self._framed("history", _encoded(document))
        elif rows:
            yield self._framed("rows", _encoded({"key": view.key, "rows": rows}))
        yield from self._changed("run", view.key, _encoded(_run_document(view)))

    def _changed(self, name: str, key: str, encoded: str) -> Iterator[str]:
        """Yield an event unless it is the one that was sent last."""
        if self._sent.get((name, key)) != encoded:
            self._sent[name, key] = encoded
            yield self._framed(name, encoded)

    def _framed(self, name: str, encoded: str) -> str:
        positions = ",".join(
            f"{key}:{serial}:{number}" for key, (serial, number) in self._positions.items()
        )
        return f"id: {positions}\nevent: {name}\ndata: {encoded}\n\n"


class EventResponse(StreamingResponse):
    """Sends a stream as long as it holds a place, or says that there is none."""

    def __init__(self, stream: EventStream, places: Places) -> None:
        super().__init__(stream, media_type="text/event-stream")
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        if scope["method"] == "HEAD":
            await Response(media_type=self.media_type)(scope, receive, send)
            return
        if not self._places.free:
            full = "too many pages are open already; close one\n"
            await PlainTextResponse(full, 503, {"Retry-After": "10"})(scope, receive, send)
            return
        self._places.free -= 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.free += 1


def _read_positions(last_event_id: str) -> dict[str, tuple[str, int]]:
    found: Sequence[tuple[str, str, str]] = _POSITION.findall(last_event_id[:1000])
    return {key: (serial, int(number)) for key, serial, number in found}


def _run_document(view: RunView) -> dict[str, object]:
    return {
        "key": view.key,
        "started_at": view.record.get("started_at"),
        "hostname": view.record.get("hostname"),
        "every": view.record.get("every"),
        "problem": view.problem,
        "averages": view.averages(),
        "alerts": list(view.alerts.newest),
        "num_alerts": sum(view.alerts.counts.values()),
        "folder": view.folder,
        "pictures": view.pictures,
        "overview": [{"name": name, "version": version} for name, version in view.overview],
        "host": view.newest.get("host"),
        "monitoring": view.newest.get("monitoring"),
    }


def _encoded(document: dict[str, object]) -> str:
    return json.dumps(plain(document), allow_nan=False)
