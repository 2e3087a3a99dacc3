"""The logs in the Trainer's `trainer_state.json`, entry by entry: those of a long run are large."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from tracksided.checkpoints.numbers import as_number, numbers_in
from tracksided.checkpoints.source import SourceFile

_BLOCK_BYTES = 64 << 10
_MAX_CHARACTERS = 1 << 20  # in front of the logs, or of one entry; real ones have some hundred
_LOGS = re.compile(r'"log_history"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")


def logged_metrics(source: SourceFile, step: int | None) -> dict[str, float]:
    """Return the numbers that were logged at a step, by name; the latest entry counts.

    ``best_metric`` is among them where the Trainer calls this very checkpoint the best so far.

    Raises:
        SourceRefused: the file is damaged.
    """
    metrics: dict[str, float] = {}
    logs = _Logs(source)
    try:
        fields = logs.fields_before()
        if fields is None or step is None:
            return metrics
        for entry in logs.entries():
            if entry.get("step") == step:
                metrics |= numbers_in(entry)
    except (ValueError, RecursionError) as error:
        raise source.refusal(f"its logs cannot be read: {error}") from error
    best, model = as_number(fields.get("best_metric")), fields.get("best_model_checkpoint")
    is_best = isinstance(model, str) and PurePosixPath(model).name == source.owner.name
    return metrics if best is None or not is_best else {**metrics, "best_metric": best}


class _Logs:
    """A JSON file, of which no more than an entry is held."""

    def __init__(self, source: SourceFile) -> None:
        self._text = ""
        self._blocks = _blocks(source)

    def fields_before(self) -> dict[str, object] | None:
        """Return the fields in front of the logs, or None where there are no logs.

        The Trainer sorts the fields by name.

        Raises:
            ValueError: this is no JSON.
        """
        while (found := _LOGS.search(self._text)) is None:
            if not self._read_on():
                return None
        before = self._text[: found.start()].rstrip().removesuffix(",")
        self._text = self._text[found.end() :]
        fields = json.loads(before + "}")
        return fields if isinstance(fields, dict) else {}

    def entries(self) -> Iterator[dict[str, object]]:
        """Yield the entries of the logs, in order.

        Raises:
            ValueError: they are damaged, or do not end.
        """
        decoder = json.JSONDecoder()
        position = 0
        while True:
            position = _skip(self._text, position)
            if self._text.startswith("]", position):
                return
            try:
                entry, position = decoder.raw_decode(self._text, position)
            except ValueError:  # it may go on in the next block
                self._text, position = self._text[position:], 0
                if not self._read_on():
                    raise
                continue
            if isinstance(entry, dict):
                yield entry

    def _read_on(self) -> bool:
        """Add a block; return False at the end."""
        if len(self._text) > _MAX_CHARACTERS:
            raise ValueError(f"more than {_MAX_CHARACTERS} characters without an entry")
        block = next(self._blocks, "")
        self._text += block
        return bool(block)


def _skip(text: str, position: int) -> int:
    found = _BETWEEN.match(text, position)
    return found.end() if found is not None else position


def _blocks(source: SourceFile) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, source.nbytes, _BLOCK_BYTES):
        nbytes = min(_BLOCK_BYTES, source.nbytes - start)
        yield decoder.decode(source.read(start, nbytes), final=start + nbytes == source.nbytes)
