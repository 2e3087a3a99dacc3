"""What the user should know but no error is: each of it is said once."""

import logging

logger = logging.getLogger(__name__)


class Notes:
    """Logs a note when it comes for the first time."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, *notes: str) -> None:
        """Log those that are new."""
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                logger.warning("trackside: %s", note)
