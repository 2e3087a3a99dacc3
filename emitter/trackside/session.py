"""`attach` and `Session`: what the user holds of all this."""

import atexit
import contextlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeVar, Unpack

import torch
from torch import nn

from trackside.config import (
    AttachKeywords,
    EmitterConfig,
    show_keywords,
    unknown_variables,
)
from trackside.dataset import SUMMARY_TAG, describe
from trackside.environment import is_switched_off
from trackside.errors import ConfigError
from trackside.optimizer_hooks import innermost
from trackside.parts import Parts
from trackside.recorder import Recorder
from trackside.root_hook import unwrap
from trackside.texts import MAX_TEXTS

logger = logging.getLogger(__name__)

_S = TypeVar("_S", bound="Session")

# What is attached in this process, so that attaching twice does not send everything twice.
_open_sessions: list["Session"] = []
# Of those that nobody closed: what is attached next must not write over their outputs.
_left_over_dirs: set[Path | None] = set()


@show_keywords
def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    **keywords: Unpack[AttachKeywords],
) -> "Session":
    """Watch a training from here on.

    Call it when model and optimizer are there, and after ``init_process_group`` if there is one;
    the model may be wrapped or compiled before or after. A keyword that is left out comes from
    the environment (``TRACKSIDE_EVERY=50``), else it has the default that the signature shows.

    With ``TRACKSIDE=0`` in the environment nothing at all happens.

    Args:
        model: what is trained.
        optimizer: without it, the first one that steps a parameter of the model is taken.
        every: sample optimizer steps with ``step % every == 0``; steps count from 1.
        epochs: also sample the first step of these, as told by `Session.log` or an integration.
        layers: indices per stack (encoder, decoder, decoder-cross); None for all.
        heads: "all", "average", a head or a list of heads.
        sample: which sample of the batch.
        max_queries: query rows kept per map, evenly spaced; every kept row is exact.
        attention: whether attention is captured.
        gradients: whether gradients of single parameters are captured.
        save_dir: where the daemon writes; None for ``./trackside_logs/<run>``.
        checkpoints: directories that the daemon watches and averages.
        run: run id; None to derive one that is equal on all ranks.
        ring_bytes: shared memory per rank.
        step_bytes: payload of a sampled step at most; None for half of the ring.
        visualize: what the daemon draws and writes of a step, a list of "heatmap", "statistics",
            "multi_head", "layer_comparison", "gradient_flow", "animation" and "entropy".
        save_raw: whether the attention weights are kept as arrays, too.
        config: your own settings, shown as they are.
        autostart: whether a daemon is started where none runs.

    Raises:
        ConfigError: a keyword or a ``TRACKSIDE_*`` variable cannot be used. Whatever else goes
            wrong is logged once, and the training goes on without.
    """
    return open_session(Session, model, optimizer, keywords)


def open_session(
    kind: type[_S],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    keywords: Mapping[str, object],
) -> _S:
    """Attach with a session of some kind; see `attach`.

    Raises:
        ConfigError: an argument or a variable of the environment cannot be used.
    """
    if is_switched_off(os.environ):
        return kind(None)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"attach(model=...) takes a torch.nn.Module, not {type(model)}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"attach(optimizer=...) takes a torch.optim.Optimizer, not {type(optimizer)}; "
            "leave it out to take the first that updates the model"
        )
    config = EmitterConfig.resolve(keywords, os.environ)
    for name, near in unknown_variables(os.environ).items():
        hint = f"; did you mean {near}?" if near else ""
        logger.warning("trackside: the environment variable %s is not known%s", name, hint)
    _close_left_over()
    for session in tuple(_open_sessions):
        if session.is_own and session.watches(model, optimizer):
            if session.config == config and type(session) is kind:
                logger.warning("trackside: this model is attached already, the session goes on")
                return session
            session.close("attached anew")
    try:
        in_use = {session.save_dir for session in _open_sessions} | _left_over_dirs
        return kind(Parts(model, optimizer, config, kind.recorder_type, in_use))
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever fails in here, the training goes on
        logger.warning("trackside: nothing will be recorded: %s: %s", type(error).__name__, error)
        return kind(None)


def _close_left_over() -> None:
    # Not at the moment when a model goes: its results may be logged after that.
    for session in tuple(_open_sessions):
        if session.is_own and session.is_left_over:
            _left_over_dirs.add(session.save_dir)
            session.close("model or optimizer is gone")


def log_dataset(
    *,
    texts: Iterable[str] | int | None = None,
    terms: Sequence[str] = (),
    max_texts: int = MAX_TEXTS,
    **facts: object,
) -> None:
    """Log what is known of the data set to every open session; see `Session.dataset`.

    Args:
        texts: as in `Session.dataset`.
        terms: as in `Session.dataset`.
        max_texts: as in `Session.dataset`.
        facts: as in `Session.dataset`.
    """
    if not _open_sessions and not is_switched_off(os.environ):
        logger.warning("trackside: log_dataset() has no session to log to; call attach() first")
    for session in tuple(_open_sessions):
        session.dataset(texts=texts, terms=terms, max_texts=max_texts, **facts)


class Session:
    """One attached model. For the thread that trains; in a forked child it is silent."""

    recorder_type: ClassVar[type[Recorder]] = Recorder

    def __init__(self, parts: Parts | None) -> None:
        """Open; None makes a session that does nothing. Users call `attach`."""
        self._parts = parts
        if parts is None:
            return
        _open_sessions.append(self)
        atexit.register(self.close, "interpreter exit")
        parts.recorder.guard.on_give_up = self._give_up
        parts.recorder.guard.run("attach", parts.recorder.install)

    @property
    def config(self) -> EmitterConfig | None:
        """The settings; None where nothing is done."""
        return self._parts.config if self._parts is not None else None

    @property
    def run(self) -> str | None:
        """The run id; None where nothing is done."""
        return self._parts.identity.run if self._parts is not None else None

    @property
    def save_dir(self) -> Path | None:
        """Where the daemon writes; None where nothing is done."""
        return self._parts.save_dir if self._parts is not None else None

    @property
    def step(self) -> int:
        """Optimizer steps completed; 0 where nothing is done."""
        return self._parts.recorder.step if self._parts is not None else 0

    @property
    def is_due(self) -> bool:
        """Whether ``every`` asks for the step that is under way; False where nothing is done."""
        return self._parts is not None and self._parts.config.is_due(self.step + 1)

    def log(self, step: int | None = None, epoch: float | None = None, **scalars: object) -> None:
        """Log values by name: numbers or tensors with one element, which are never waited for.

        ``loss`` takes the place of the value that backward was called on; log it in every step,
        before or after the optimizer's. Other values become ``Custom/<name>``, or what their name
        says if it has a slash. Those of every step are kept and travel with the next sampled step,
        each under its own step. Between two of them there is room for 4 MiB, or an eighth of a
        smaller ring: some 80,000 numbers, or 20,000 tensors on a device. Beyond that the oldest
        are dropped, and counted as ``log_full``. Of several ranks on a node the lowest one's values
        are shown: log what is true of the whole step.

        Args:
            step: optimizer steps done so far, where training was resumed. A count that is one
                off changes nothing: loops count from 0 or 1 and log before or after the step.
            epoch: the current one; the first step of a new one in ``epochs`` is sampled, with
                its attention if this is said before its forward.
            scalars: the values.
        """
        if self._parts is not None:
            recorder = self._parts.recorder
            recorder.guard.run("log", recorder.log, step, epoch, scalars)

    def log_at(self, step: int, values: Mapping[str, object]) -> None:
        """Log values under another count than that of optimizer steps, which stays as it is.

        Args:
            step: where the values stand in the curves.
            values: name to value, as in `log`; ``loss`` is a value like any other.
        """
        if self._parts is not None:
            recorder = self._parts.recorder
            recorder.guard.run("log_at", recorder.log_at, step, values)

    def text(self, tag: str, text: str) -> None:
        """Log a text; it travels with the next sampled step, as in `log`.

        Args:
            tag: becomes ``Custom/<tag>`` unless it has a slash.
            text: Markdown.
        """
        if self._parts is not None:
            recorder = self._parts.recorder
            recorder.guard.run("text", recorder.log_text, str(tag), str(text))

    def tokens(self, tokens: Iterable[object]) -> None:
        """Name what stands at each position of the sample that the next sampled step shows.

        Axes of that length are then labelled with it. Call it before the optimizer's step::

            if session.is_due:
                session.tokens(tokenizer.convert_ids_to_tokens(batch["input_ids"][0]))

        Args:
            tokens: one text or number per position, of the sample that `attach(sample=...)`
                chooses; more than 16384 are not shown.
        """
        if self._parts is not None:
            recorder = self._parts.recorder
            recorder.guard.run("tokens", recorder.logbook.give_tokens, tokens)

    def dataset(
        self,
        *,
        texts: Iterable[str] | int | None = None,
        terms: Sequence[str] = (),
        max_texts: int = MAX_TEXTS,
        **facts: object,
    ) -> None:
        """Log what is known of the data set, such as ``samples=50_000, source="wikitext"``.

        Numbers become ``Dataset/<name>``; a mapping from names to numbers, such as
        ``difficulty={"easy": 0.7, "hard": 0.3}``, becomes ``Dataset/<name>/<key>``; many numbers,
        such as ``lengths=[...]``, become their count, mean, median, 95th percentile and maximum.
        All of it becomes the text ``Dataset/Summary``, a table.

        Texts are measured here and now, which takes some seconds at most: lengths, scripts,
        vocabulary and, with ``terms``, their coverage. Only the first rank of a node does so.

        Args:
            texts: a list, or a column of a data set, never the iterator that you train from; or
                just how many there are.
            terms: words or phrases that the texts should contain.
            max_texts: how many are looked at; of a list evenly spaced ones.
            facts: the rest.
        """
        if self._parts is not None and self._parts.identity.place.local_rank == 0:
            guard = self._parts.recorder.guard
            guard.run("dataset", self._describe, facts, texts, terms, max_texts)

    def _describe(
        self,
        facts: Mapping[str, object],
        texts: Iterable[str] | int | None,
        terms: Sequence[str],
        max_texts: int,
    ) -> None:
        if isinstance(texts, int):
            facts, texts = {"texts": texts, **facts}, None
        try:
            found = describe(facts, texts=texts, terms=terms, max_texts=max_texts)
        except ConfigError as error:
            logger.warning("trackside: the texts of the data set are not measured: %s", error)
            found = describe(facts)
        self.log_at(self.step, found.numbers)
        self.text(SUMMARY_TAG, found.summary)

    def follow(self, step: int) -> None:
        """Take over a framework's count of optimizer steps done so far, exactly.

        Args:
            step: the framework's count.
        """
        if self._parts is not None:
            recorder = self._parts.recorder
            recorder.guard.run("follow", recorder.follow, step)

    def sum_micro_batches(self) -> None:
        """Take the losses of accumulated micro-batches as divided already: a step's is their sum.

        Frameworks that accumulate divide them; without this, the mean is taken.
        """
        if self._parts is not None:
            self._parts.recorder.sum_micro_batches()

    def forward(self) -> contextlib.AbstractContextManager[None]:
        """Take a block for a forward of the model, up to the first backward in it.

        For a loop that calls a method of the model, such as ``model.training_step(batch)``, and
        not the model itself; attention is captured in calls of the model only.
        """
        if self._parts is None:
            return contextlib.nullcontext()
        return self._parts.recorder.forward()

    def close(self, reason: str = "closed") -> None:
        """Unhook everything, publish what is left and say in one line what became of it.

        Twice is fine. It happens by itself at the exit, and at an `attach` after the model is gone.

        Args:
            reason: why; stands in ``training_statistics.json``.
        """
        parts = self._parts
        if parts is None or self not in _open_sessions or not parts.recorder.guard.is_owner:
            return
        _open_sessions.remove(self)
        atexit.unregister(self.close)
        guard, recorder, publisher = parts.recorder.guard, parts.recorder, parts.publisher
        guard.run_last("close", recorder.remove)
        guard.run_last("close", recorder.finish, reason)
        guard.run_last("close", publisher.close)
        drops = ", ".join(f"{count} {cause}" for cause, count in publisher.drops.items())
        logger.log(
            logging.WARNING if drops else logging.INFO,
            "trackside: run %s rank %d: %d steps, %d sampled, %d records published, dropped: %s; "
            "outputs in %s",
            parts.identity.run,
            parts.identity.place.rank,
            recorder.steps_seen,
            recorder.sampled,
            publisher.published,
            drops or "none",
            parts.save_dir,
        )

    @property
    def is_own(self) -> bool:
        """Whether this process attached it; one that came over a fork is silent."""
        return self._parts is not None and self._parts.recorder.guard.is_owner

    @property
    def is_left_over(self) -> bool:
        """Whether nothing comes any more: its model or optimizer is gone."""
        parts = self._parts
        return parts is not None and (parts.root() is None or parts.recorder.hooks.has_lost)

    def watches(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> bool:
        """Whether this session is that of a model, wrapped or not, and its optimizer.

        Args:
            model: wrapped or not.
            optimizer: None for any.
        """
        if self._parts is None or self._parts.root() is not unwrap(model):
            return False
        own = self._parts.recorder.hooks.optimizer
        return own is None or innermost(optimizer) in (None, own)

    def __reduce__(self) -> "tuple[type[Self], tuple[None]]":
        """Make a session that does nothing of a copy, or of what comes out of a file.

        So a model, or what else holds a session, can be copied and saved.
        """
        return type(self), (None,)

    def _give_up(self) -> None:
        self.close("detached after errors")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close("closed" if kind is None else f"failed: {kind.__name__}")
