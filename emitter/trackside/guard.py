"""The one guard around every hook: no exception leaves one, and three are the end.

The tap has one of its own (`trackside.capture.attention`), which reports to this one. What else
may catch all that is raised is in docs/architecture.md, invariants 2 and 6.
"""

import logging
import os
from collections.abc import Callable
from typing import ParamSpec

logger = logging.getLogger(__name__)

MAX_ERRORS = 3  # a hook that fails again and again costs more than its data is worth

_P = ParamSpec("_P")


class Guard:
    """Runs hooks; logs an exception once per place, and gives up after `MAX_ERRORS`.

    In a process forked from the owner, hooks do not run at all.
    """

    def __init__(self, on_error: Callable[[], None]) -> None:
        """Call ``on_error`` after every exception."""
        self.errors = 0
        self.on_give_up: Callable[[], None] = _do_nothing
        """Called once, after the last exception."""

        self._owner_pid = os.getpid()
        self._on_error = on_error
        self._places: set[str] = set()

    @property
    def is_owner(self) -> bool:
        """Whether this is the process that attached."""
        return os.getpid() == self._owner_pid

    def run(
        self, place: str, hook: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        """Run a hook; whatever it raises ends here.

        Args:
            place: what the log calls it; the traceback of each place is logged once.
            hook: what is run.
            *args: for the hook.
            **kwargs: for the hook.
        """
        if not self.is_owner or self.errors >= MAX_ERRORS:
            return
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the guard around every hook
            self.report(place, error)

    def run_last(
        self, place: str, hook: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        """Run a part of the session's end, however many errors there were.

        Args:
            place: what the log calls it.
            hook: what is run.
            *args: for the hook.
            **kwargs: for the hook.
        """
        if not self.is_owner:
            return
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the guard around every hook
            logger.warning("trackside: %s failed: %s: %s", place, type(error).__name__, error)

    def report(self, place: str, error: BaseException) -> None:
        """Count an exception that was caught elsewhere; the traceback goes to the first line."""
        if place not in self._places:
            self._places.add(place)
            logger.warning(
                "trackside: %s failed, training goes on: %s: %s",
                place,
                type(error).__name__,
                error,
                exc_info=(type(error), error, error.__traceback__),
            )
        self.errors += 1
        self._on_error()
        if self.errors == MAX_ERRORS:
            logger.warning("trackside: detached after %d errors in its hooks", MAX_ERRORS)
            self.on_give_up()


def _do_nothing() -> None:
    """Stand in until somebody wants to know."""
