"""A callback for Lightning's `Trainer`."""

import functools
import importlib
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Unpack

from trackside.config import show_keywords
from trackside.integrations.attachment import Attachment

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trackside.config import AttachKeywords
    from trackside.session import Session

logger = logging.getLogger(__name__)

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback_class() -> type:
    """Return `Callback` of the package that the script uses, else of the one that is there."""
    for package in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            base = importlib.import_module(f"{package}.callbacks").Callback
        except ImportError:
            continue
        if isinstance(base, type):
            return base
    raise ImportError("trackside.integrations.lightning needs Lightning: pip install lightning")


class _Strategy(Protocol):
    """What is used of `lightning.pytorch.strategies.Strategy`."""

    training_step: Callable[..., object]


class _Checkpoint(Protocol):
    """What is read of `lightning.pytorch.callbacks.ModelCheckpoint`."""

    dirpath: str | None


class _Trainer(Protocol):
    """What is read of `lightning.pytorch.Trainer`."""

    callback_metrics: "Mapping[str, torch.Tensor]"
    checkpoint_callbacks: Sequence[_Checkpoint]
    current_epoch: int
    global_step: int
    logged_metrics: "Mapping[str, torch.Tensor]"
    log_every_n_steps: int
    optimizers: "Sequence[torch.optim.Optimizer]"
    sanity_checking: bool
    strategy: _Strategy


class TracksideCallback(_callback_class()):  # type: ignore[misc]  # found at run time
    """Attaches when fitting begins and closes when it ends, also with an exception.

    Lightning calls ``training_step``, which need not call the module itself: the step is taken
    for the forward, up to its first backward. For this the strategy's ``training_step`` is
    wrapped while fitting.
    """

    @show_keywords
    def __init__(self, **keywords: Unpack["AttachKeywords"]) -> None:
        """Take the keywords of `trackside.attach`.

        ``checkpoints`` are the directories of the checkpoint callbacks, if not given.

        Raises:
            ConfigError: a keyword cannot be used.
        """
        super().__init__()
        self._attachment = Attachment(keywords)
        self._strategy: _Strategy | None = None
        self._is_counting = False
        self._last_step = 0
        self._logged: dict[str, torch.Tensor] = {}

    @property
    def session(self) -> "Session | None":
        """The session, None where nothing is fitted."""
        return self._attachment.session

    def on_fit_start(self, trainer: _Trainer, pl_module: "nn.Module") -> None:
        """Attach to the first optimizer."""
        self._unwrap_strategy()
        optimizers = trainer.optimizers
        directories = [checkpoint.dirpath for checkpoint in trainer.checkpoint_callbacks]
        session = self._attachment.open(
            pl_module,
            optimizers[0] if optimizers else None,
            checkpoints=[path for path in directories if path] or None,
        )
        if getattr(pl_module, "automatic_optimization", True):
            session.sum_micro_batches()
        # With several, Lightning counts the steps of all together.
        self._is_counting = len(optimizers) == 1
        if len(optimizers) > 1:
            logger.warning(
                "trackside: %d optimizers: steps, gradients and learning rate are those of the "
                "first; a resumed training counts from 0",
                len(optimizers),
            )
        self._wrap_strategy(trainer.strategy, session)

    def on_train_start(self, trainer: _Trainer, pl_module: "nn.Module") -> None:
        """Go on with the step count of a training that is resumed."""
        del pl_module
        self._last_step = trainer.global_step
        self._follow(trainer)

    def on_train_epoch_start(self, trainer: _Trainer, pl_module: "nn.Module") -> None:
        """Tell the epoch, counted from 0 as Lightning does."""
        del pl_module
        self._remember_metrics(trainer)
        if self.session is not None:
            self.session.log(epoch=trainer.current_epoch)

    def on_train_batch_end(self, trainer: _Trainer, pl_module: "nn.Module", *_: object) -> None:
        """Count as Lightning does, and log as often as its loggers: not between micro-batches."""
        del pl_module
        self._follow(trainer)
        step, self._last_step = self._last_step, trainer.global_step
        if trainer.global_step != step and trainer.global_step % trainer.log_every_n_steps == 0:
            self._log_metrics(trainer)

    def on_train_epoch_end(self, trainer: _Trainer, pl_module: "nn.Module") -> None:
        """Log what was averaged over the epoch."""
        del pl_module
        self._log_metrics(trainer)

    def on_validation_start(self, trainer: _Trainer, pl_module: "nn.Module") -> None:
        """Leave what is there to the steps of the training."""
        del pl_module
        self._remember_metrics(trainer)

    def on_validation_end(self, trainer: _Trainer, pl_module: "nn.Module") -> None:
        """Log the metrics of a validation."""
        del pl_module
        if not trainer.sanity_checking:
            self._log_metrics(trainer)

    def on_exception(
        self, trainer: _Trainer, pl_module: "nn.Module", exception: BaseException
    ) -> None:
        """Close the session."""
        del trainer, pl_module
        self._unwrap_strategy()
        self._attachment.fail(exception)

    def on_fit_end(self, trainer: _Trainer, pl_module: "nn.Module") -> None:
        """Close the session."""
        del trainer, pl_module
        self._unwrap_strategy()
        self._attachment.close()

    def _follow(self, trainer: _Trainer) -> None:
        if self.session is not None and self._is_counting:
            self.session.follow(trainer.global_step)

    def _log_metrics(self, trainer: _Trainer) -> None:
        """Log what ``self.log`` was given, as far as it is new."""
        if self.session is None:
            return
        before, metrics = self._logged, self._remember_metrics(trainer)
        names = _without_aliases(metrics, trainer.logged_metrics)
        new = {name: metrics[name] for name in names if before.get(name) is not metrics[name]}
        self.session.log_at(self.session.step, new)

    def _remember_metrics(self, trainer: _Trainer) -> "dict[str, torch.Tensor]":
        """Return what ``self.log`` was given so far; from now on it is not new."""
        self._logged = dict(trainer.callback_metrics)
        return self._logged

    def _wrap_strategy(self, strategy: _Strategy, session: "Session") -> None:
        original = strategy.training_step

        @functools.wraps(original)
        def training_step(*args: object, **kwargs: object) -> object:
            with session.forward():
                return original(*args, **kwargs)

        strategy.training_step = training_step
        self._strategy = strategy

    def _unwrap_strategy(self) -> None:
        """Give the strategy its own method back, and forget the last fit."""
        strategy, self._strategy = self._strategy, None
        self._logged = {}
        if strategy is not None:
            vars(strategy).pop("training_step", None)


def _without_aliases(metrics: Iterable[str], of_loggers: Collection[str]) -> list[str]:
    """Return the names of metrics, without those that stand for two others.

    Loggers get what is logged by steps and epochs as ``loss_step`` and ``loss_epoch``; callbacks
    besides as ``loss``, which is now the one, now the other.

    Args:
        metrics: names, as callbacks get them.
        of_loggers: names, as loggers get them.
    """
    return [
        name
        for name in metrics
        if name in of_loggers or not {f"{name}_step", f"{name}_epoch"} & set(of_loggers)
    ]
