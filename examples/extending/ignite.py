"""A handler for PyTorch Ignite's `Engine`."""

from typing import TYPE_CHECKING, Unpack

from trackside.integrations.attachment import Attachment

try:
    from ignite.engine import Engine, Events
except ImportError as error:
    raise ImportError(
        "trackside.integrations.ignite needs Ignite: pip install pytorch-ignite"
    ) from error

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trackside.config import AttachKeywords
    from trackside.session import Session


class TracksideHandler:
    """``TracksideHandler(every=50).attach(trainer, model, optimizer)``, then ``trainer.run``.

    Attaches when a run begins and closes when it ends, also with an exception.
    """

    def __init__(self, **keywords: Unpack["AttachKeywords"]) -> None:
        """Take the keywords of `trackside.attach`.

        Raises:
            ConfigError: a keyword cannot be used.
        """
        self._attachment = Attachment(keywords)

    @property
    def session(self) -> "Session | None":
        """The session, None where nothing runs."""
        return self._attachment.session

    def attach(
        self, engine: Engine, model: "nn.Module", optimizer: "torch.optim.Optimizer"
    ) -> None:
        """Register with a trainer.

        Args:
            engine: what trains.
            model: wrapped or not.
            optimizer: what steps it.
        """
        engine.add_event_handler(Events.STARTED, self._start, model, optimizer)
        engine.add_event_handler(Events.EPOCH_STARTED, self._tell_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(
        self, engine: Engine, model: "nn.Module", optimizer: "torch.optim.Optimizer"
    ) -> None:
        del engine
        self._attachment.open(model, optimizer)

    def _tell_epoch(self, engine: Engine) -> None:
        """Count from 1, as Ignite does."""
        if self.session is not None:
            self.session.log(epoch=engine.state.epoch)

    def _end(self, engine: Engine) -> None:
        del engine
        self._attachment.close()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        """Close, and raise again: Ignite takes an error that has a handler for handled."""
        del engine
        self._attachment.fail(error)
        raise error
