"""Settings of one session: keyword over environment over default, checked when built."""

import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Literal, ParamSpec, TypedDict, TypeVar, cast, get_args, get_type_hints

from trackside.checks import CHECKS
from trackside.environment import PREFIX, parse, refusal
from trackside.errors import ConfigError
from trackside.wire.segment import SHM_DIR_VARIABLE

Heads = Literal["all", "average"] | int | Sequence[int]
PathLike = str | os.PathLike[str]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class AttachKeywords(TypedDict, total=False):
    """The keywords of `trackside.attach`; see `EmitterConfig` for their meaning."""

    every: int
    epochs: Sequence[int]
    layers: Sequence[int] | None
    heads: Heads
    sample: int
    max_queries: int
    attention: bool
    gradients: bool
    save_dir: PathLike | None
    checkpoints: PathLike | Sequence[PathLike] | None
    run: str | None
    ring_bytes: int
    step_bytes: int | None
    visualize: Sequence[str]
    save_raw: bool
    config: Mapping[str, object] | None
    autostart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitterConfig:
    """Every setting of a session. Lists come as tuples, paths as `Path`, whatever was given.

    Raises:
        ConfigError: a value that cannot be used; the message names keyword, value and mend.
    """

    every: int = 100
    """Sample optimizer steps with ``step % every == 0``; steps count from 1."""

    epochs: tuple[int, ...] = ()
    """Also sample the first step of these epochs, as told by ``log(epoch=...)``."""

    layers: tuple[int, ...] | None = (0, -1)
    """Indices per stack (encoder, decoder, decoder-cross); None for all."""

    heads: Literal["all", "average"] | int | tuple[int, ...] = "all"
    """Which heads to send; ``average`` sends all and lets the daemon average."""

    sample: int = 0
    """Which sample of the batch."""

    max_queries: int = 512
    """Query rows kept per map, evenly spaced; every kept row is exact."""

    attention: bool = True
    """Whether attention is captured."""

    gradients: bool = True
    """Whether per-parameter gradient data is captured."""

    save_dir: Path | None = None
    """Where the daemon writes; None for ``./trackside_logs/<run>``."""

    checkpoints: tuple[Path, ...] = ()
    """Directories that the daemon watches and averages."""

    run: str | None = None
    """Run id; None to derive one that is equal on all ranks."""

    ring_bytes: int = 64 << 20
    """Shared memory per rank, in bytes."""

    step_bytes: int | None = None
    """Payload of a sampled step, in bytes, at most; None for half of the ring. What is larger is
    made to fit, and the step says how."""

    visualize: tuple[str, ...] = ("heatmap", "statistics")
    """What the daemon draws and writes of a step: words that `trackside.attach` lists."""

    save_raw: bool = False
    """Whether the daemon also keeps the attention weights as arrays."""

    config: dict[str, object] = field(default_factory=dict)
    """The user's own settings, shown as they are. What JSON cannot hold becomes text."""

    autostart: bool = True
    """Whether a daemon is started where none runs."""

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.step_budget_bytes > self.ring_bytes:
            raise refusal("step_bytes", self.step_bytes, f"at most ring_bytes, {self.ring_bytes}")

    @classmethod
    def resolve(cls, keywords: Mapping[str, object], environ: Mapping[str, str]) -> "EmitterConfig":
        """Build the settings from explicit keywords, then ``TRACKSIDE_*``, then defaults.

        Args:
            keywords: those that were given.
            environ: such as `os.environ`.

        Raises:
            ConfigError: an unknown keyword, or a value that cannot be used.
        """
        names = [setting.name for setting in fields(cls)]
        for keyword in keywords:
            if keyword not in names:
                near = difflib.get_close_matches(keyword, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
                raise ConfigError(f"attach() has no keyword {keyword!r}; {hint}")
        chosen = {
            name: parse(name, environ[variable])
            for name in names
            if (variable := PREFIX + name.upper()) in environ and name not in keywords
        }
        chosen.update(keywords)
        # Every value passes its check in __post_init__ before anybody sees it.
        return cls(**cast("AttachKeywords", chosen))  # type: ignore[arg-type]  # checked there

    @property
    def step_budget_bytes(self) -> int:
        """Payload of a sampled step, in bytes, at most."""
        return self.ring_bytes // 2 if self.step_bytes is None else self.step_bytes

    def is_due(self, step: int) -> bool:
        """Whether ``every`` asks for this step.

        Args:
            step: counted from 1.
        """
        return step % self.every == 0


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Find ``TRACKSIDE_*`` variables that nothing reads.

    They are no error as a mistyped keyword is: another version may know them, and what a shell
    or a scheduler exports must not stop a training.

    Returns:
        Name to the nearest known one, "" where none is near.
    """
    known = [setting.name.upper() for setting in fields(EmitterConfig)]
    known.append(SHM_DIR_VARIABLE.removeprefix(PREFIX))
    found: dict[str, str] = {}
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)  # the shared prefix would make all names near
        if rest != name and rest not in known:
            near = difflib.get_close_matches(rest, known, n=1)
            found[name] = PREFIX + near[0] if near else ""
    return found


def show_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let `help` and `inspect` show every keyword with its default, not ``**keywords``.

    They cannot stand in the function itself: it must know which ones were given.
    """
    signature = inspect.signature(function)
    positional = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    defaults = {setting.name: setting.default for setting in fields(EmitterConfig)}
    keywords = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_shown_default(defaults[name], hint),
            annotation=hint,
        )
        for name, hint in get_type_hints(AttachKeywords).items()
    ]
    shown = signature.replace(parameters=[*positional, *keywords])
    function.__signature__ = shown  # type: ignore[attr-defined]  # `inspect` looks for it
    return function


def _shown_default(default: object, hint: object) -> object:
    """Return None for an empty collection where None may be given and means the same."""
    is_empty = default is MISSING or default == ()
    return None if is_empty and type(None) in get_args(hint) else default
