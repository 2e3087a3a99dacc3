"""The session of one training, from a framework's begin to its end."""

import os
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from trackside.config import AttachKeywords, EmitterConfig
from trackside.environment import PREFIX
from trackside.session import Session, attach


class Attachment:
    """Holds the keywords of `attach` until there is a model, then the session."""

    def __init__(self, keywords: Mapping[str, object]) -> None:
        """Check the keywords at once: the model may take minutes to load.

        Args:
            keywords: of `trackside.attach`.

        Raises:
            ConfigError: a keyword or a ``TRACKSIDE_*`` variable cannot be used.
        """
        EmitterConfig.resolve(keywords, os.environ)
        self._keywords = dict(keywords)
        self._session: Session | None = None

    @property
    def session(self) -> Session | None:
        """The session, None where no training runs."""
        return self._session

    def open(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, **defaults: object
    ) -> Session:
        """Attach; a session of an earlier training is closed.

        Args:
            model: wrapped or not.
            optimizer: wrapped or not, None to find it.
            defaults: keywords of `attach` where neither the user nor the environment has one.
        """
        self.close("attached anew")
        own = {
            name: value
            for name, value in defaults.items()
            if value is not None and PREFIX + name.upper() not in os.environ
        }
        keywords = cast("AttachKeywords", {**own, **self._keywords})
        self._session = attach(model, optimizer, **keywords)
        return self._session

    def close(self, reason: str = "closed") -> None:
        """Close the session; twice is fine.

        Args:
            reason: as in `Session.close`.
        """
        session, self._session = self._session, None
        if session is not None:
            session.close(reason)

    def fail(self, error: BaseException) -> None:
        """Close the session of a training that has raised.

        Args:
            error: what the training raised.
        """
        self.close(f"failed: {type(error).__name__}")
