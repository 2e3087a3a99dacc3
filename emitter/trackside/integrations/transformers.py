"""A callback for the `transformers.Trainer`: everything but the callback itself is found out."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, Unpack

from trackside.config import show_keywords
from trackside.integrations.attachment import Attachment

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError(
        "trackside.integrations.transformers needs the Trainer: pip install 'transformers[torch]'"
    ) from error

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trackside.config import AttachKeywords
    from trackside.session import Session

# The Trainer's prefixes, and the groups that their curves get.
_GROUPS = {"eval_": "Eval/", "test_": "Test/"}
_OWN_GROUP = "Trainer/"
_WATCHES_FAILURES = "_trackside_watches_failures"


class _Arguments(Protocol):
    """What is read of `transformers.TrainingArguments`."""

    output_dir: str
    train_batch_size: int
    eval_batch_size: int

    def to_dict(self) -> dict[str, object]: ...


class _State(Protocol):
    """What is read of `transformers.TrainerState`."""

    global_step: int
    epoch: float | None


class TracksideCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Attaches when training begins and closes when it ends, also with an exception.

    The Trainer has no event for an exception: the first callback made wraps `Trainer.train`,
    which then closes the sessions of its own callbacks when it raises, and does nothing else.
    """

    @show_keywords
    def __init__(self, **keywords: Unpack["AttachKeywords"]) -> None:
        """Take the keywords of `trackside.attach`.

        ``checkpoints`` is the Trainer's output directory if not given, ``config`` its arguments.

        Raises:
            ConfigError: a keyword cannot be used.
        """
        self._attachment = Attachment(keywords)
        _watch_failures()

    @property
    def session(self) -> "Session | None":
        """The session, None where no training runs."""
        return self._attachment.session

    def on_train_begin(
        self,
        args: _Arguments,
        state: _State,
        control: object,
        *,
        model: "nn.Module",
        optimizer: "torch.optim.Optimizer | None" = None,
        **_: object,
    ) -> None:
        """Attach; a resumed training goes on with its own step count."""
        del control
        session = self._attachment.open(
            model, optimizer, checkpoints=args.output_dir, config=_settings(args)
        )
        session.sum_micro_batches()
        session.follow(state.global_step)

    def on_epoch_begin(self, args: _Arguments, state: _State, control: object, **_: object) -> None:
        """Tell the epoch, counted from 0 as the Trainer does."""
        del args, control
        if self.session is not None:
            self.session.log(epoch=int(state.epoch or 0))

    def on_step_end(self, args: _Arguments, state: _State, control: object, **_: object) -> None:
        """Count as the Trainer does: it also counts steps that a loss scaler skips."""
        del args, control
        if self.session is not None:
            self.session.follow(state.global_step)

    def on_log(
        self,
        args: _Arguments,
        state: _State,
        control: object,
        logs: Mapping[str, object] | None = None,
        **_: object,
    ) -> None:
        """Log what the Trainer logs, under `curve_name`."""
        del args, control
        if self.session is not None and logs:
            values = {curve_name(name): value for name, value in logs.items() if name != "epoch"}
            self.session.log_at(state.global_step, values)

    def on_train_end(self, args: _Arguments, state: _State, control: object, **_: object) -> None:
        """Close the session."""
        del args, state, control
        self._attachment.close()

    def on_failure(self, error: BaseException) -> None:
        """Close the session of a training that has raised. Called by `Trainer.train`.

        Args:
            error: what was raised.
        """
        self._attachment.fail(error)


def curve_name(name: str) -> str:
    """Return the tag of a logged value.

    ``eval_loss`` is ``Eval/loss``, ``test_loss`` is ``Test/loss``; a name that carries a group
    keeps it; the rest is ``Trainer/<name>``, as ``Trainer/loss``: the mean since the last log.

    Args:
        name: as the Trainer logs it.
    """
    for prefix, group in _GROUPS.items():
        if name.startswith(prefix):
            return group + name.removeprefix(prefix)
    return name if "/" in name else _OWN_GROUP + name


def _settings(args: _Arguments) -> dict[str, object]:
    """Return the arguments as they are: ``to_sanitized_dict`` makes texts of None and lists."""
    return {
        **args.to_dict(),
        "train_batch_size": args.train_batch_size,
        "eval_batch_size": args.eval_batch_size,
    }


def _watch_failures() -> None:
    """Wrap `Trainer.train`, once in a process."""
    original = Trainer.train
    if hasattr(original, _WATCHES_FAILURES):
        return

    @functools.wraps(original)
    def train(self: Trainer, *args: object, **kwargs: object) -> object:
        try:
            return original(self, *args, **kwargs)
        except BaseException as error:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, TracksideCallback):
                    callback.on_failure(error)
            raise

    setattr(train, _WATCHES_FAILURES, True)
    Trainer.train = train
