"""Decide when a directory is looked at, and which of the checkpoints there have settled."""

from enum import Enum

from tracksided.checkpoints.watcher import Look, Signature

CALM_S = 0.3  # without an event before a look: files of one checkpoint come in a burst
LONG_CALM_S = 2.5  # where a file was closed again, or where it is not known what was before
REWRITTEN_S = 5.0  # so soon after it had been closed before
MAX_NAMES = 1024  # remembered; nobody writes more checkpoints at once


class Happening(Enum):
    """What was heard of a file or directory."""

    OPENED = "it is new, and whoever writes it has not closed it yet"
    CLOSED = "whoever wrote it has closed it"
    APPEARED = "it took its name, or a link did, or it is a directory"
    MISSED = "nobody knows what has happened so far, to any name"


class Settling:
    """What is known of one directory, from looks and from events. It reads no clock.

    A look settles a directory that looks the same as before: for one interval of polling, or, where
    events were heard, for `CALM_S` without another. While some of its checkpoints still change,
    each of the others settles when it has been the same for one interval of polling. No event
    settles anything by itself, and while a new file has not been closed none hastens a look.
    """

    def __init__(self) -> None:
        self._previous: Look | None = None
        self._same_since = 0.0
        self._checkpoints: dict[str, tuple[Signature, float]] = {}
        """What each was at the last look, and since when."""

        self._handled: Look | None = None
        self._next_look: float | None = None
        self._calm_s = CALM_S
        self._is_stirred = False
        """An event came after the last look."""

        self._open: set[str] = set()
        self._closed_at: dict[str, float] = {}

    @property
    def next_look(self) -> float | None:
        """When to look for the sake of events, in monotonic seconds; None: polling is enough."""
        return self._next_look

    def note(self, name: str, happening: Happening, now: float) -> None:
        """Take in one event.

        Args:
            name: of the file or directory.
            happening: what was heard of it.
            now: monotonic seconds.
        """
        match happening:
            case Happening.OPENED:
                self._open.add(name)
            case Happening.CLOSED:
                self._open.discard(name)
                self._note_closed(name, now)
            case Happening.APPEARED:
                self._open.discard(name)
            case Happening.MISSED:
                self._open.clear()
                self._calm_s = LONG_CALM_S
        if len(self._open) > MAX_NAMES:
            self._open.clear()
        self._is_stirred |= happening is not Happening.OPENED
        can_hasten = not self._open and (self._is_stirred or self._next_look is not None)
        self._next_look = now + self._calm_s if can_hasten else None

    def observe(
        self, seen: Look, now: float, poll_seconds: float, *, is_urgent: bool
    ) -> Look | None:
        """Take in one look; return what has settled of it, or None where nothing of that is new.

        While others change, only a checkpoint is something new; a removal can wait.

        Args:
            seen: the newest look.
            now: monotonic seconds.
            poll_seconds: for how long it has to look the same where no events are heard.
            is_urgent: do not wait for it to settle.
        """
        is_hastened = self._next_look is not None and now >= self._next_look
        is_same = seen == self._previous
        if not is_same:
            self._previous, self._same_since = seen, now
            self._checkpoints = self._since(seen, now)
        if not seen.signature:
            self._calm_s = CALM_S  # whatever comes is new, and heard of
        calm_s = self._calm_s if is_hastened else poll_seconds
        is_settled = is_urgent or (is_same and now >= self._same_since + calm_s)
        settled = seen if is_settled else self._settled_of(seen, now - poll_seconds)
        if is_settled:
            self._next_look, self._calm_s = None, CALM_S
            self._open.clear()
        elif is_hastened:
            # Where it changes without an event, somebody writes whom only polling sees.
            is_told = is_same or self._is_stirred
            self._next_look = self._same_since + self._calm_s if is_told else None
        self._is_stirred = False
        return settled if self._is_new(settled, is_all=is_settled) else None

    def wait_for_poll(self) -> None:
        """Let nothing that was heard so far hasten a look."""
        self._next_look = None

    def handled(self, settled: Look) -> None:
        """Remember what an averaging was started for."""
        self._handled = settled

    def forget(self) -> None:
        """Make the next settled look count as new."""
        self._handled = None

    def _since(self, seen: Look, now: float) -> dict[str, tuple[Signature, float]]:
        since: dict[str, tuple[Signature, float]] = {}
        for name, signature in seen.by_checkpoint.items():
            known = self._checkpoints.get(name, (frozenset(), now))
            since[name] = known if known[0] == signature else (signature, now)
        return since

    def _settled_of(self, seen: Look, since: float) -> Look:
        return seen.only([name for name, (_, at) in self._checkpoints.items() if at <= since])

    def _is_new(self, settled: Look, *, is_all: bool) -> bool:
        if is_all:
            return settled != self._handled
        known = frozenset() if self._handled is None else self._handled.signature
        return not settled.signature <= known

    def _note_closed(self, name: str, now: float) -> None:
        known = self._closed_at.pop(name, None)
        if known is not None and now - known < REWRITTEN_S:
            self._calm_s = LONG_CALM_S
        self._closed_at[name] = now
        while len(self._closed_at) > MAX_NAMES:
            del self._closed_at[next(iter(self._closed_at))]
