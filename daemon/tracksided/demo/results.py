"""What a finished demo left on disk, found again for the summary."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracksided.checkpoints.output_names import DEFAULT_OUTPUT
from tracksided.checkpoints.provenance import read_provenance
from tracksided.errors import OutputError

POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Paths of real files and counts of one demo."""

    run_dir: Path
    num_sampled_steps: int
    last_step_dir: Path
    heat_map: Path
    checkpoints: tuple[Path, ...]
    """From oldest to newest, without the average."""

    average: Path
    averaged: tuple[str, ...]
    """Names of the checkpoints in the average, from oldest to newest."""


def find_results(out: Path) -> Results:
    """Find what a demo must have written under its output directory.

    Raises:
        OutputError: something is missing; the message names it.
    """
    run_dir = out / "run"
    history = _read_history(run_dir / "history.jsonl")
    last_step_dir = run_dir / str(history[-1].get("folder"))
    checkpoints = saved_checkpoints(out)
    average = out / "checkpoints" / DEFAULT_OUTPUT
    heat_maps = sorted(last_step_dir.glob("decoder_layer*_self_attn.png"))
    if not heat_maps:
        raise OutputError(f"{last_step_dir} holds no heat map")
    return Results(
        run_dir=run_dir,
        num_sampled_steps=len(history),
        last_step_dir=last_step_dir,
        heat_map=heat_maps[-1],
        checkpoints=checkpoints,
        average=average,
        averaged=_averaged_names(average),
    )


def saved_checkpoints(out: Path) -> tuple[Path, ...]:
    """List the checkpoints that the training saved, from oldest to newest."""
    return tuple(sorted((out / "checkpoints").glob("step_*.pt")))


def wait_for_average(out: Path, timeout_s: float) -> None:
    """Wait until the newest checkpoint is part of the average.

    Raises:
        OutputError: it is not after ``timeout_s``.
    """
    average = out / "checkpoints" / DEFAULT_OUTPUT
    newest = saved_checkpoints(out)[-1:]
    deadline = time.monotonic() + timeout_s
    while not newest or newest[0].name not in _averaged_names(average):
        if time.monotonic() > deadline:
            names = ", ".join(path.name for path in newest) or "any checkpoint"
            raise OutputError(f"the daemon did not average {names} within {timeout_s:g} s")
        time.sleep(POLL_S)


def _averaged_names(average: Path) -> tuple[str, ...]:
    provenance = read_provenance(average)
    sources = None if provenance is None else provenance.get("sources")
    if not isinstance(sources, list) or not average.is_file():
        return ()
    return tuple(str(source.get("name")) for source in sources if isinstance(source, dict))


def _read_history(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    if not lines:
        raise OutputError(f"{path} is empty: the daemon wrote no step")
    return [json.loads(line) for line in lines]
