"""What a run was told to do: `Config/*`, from the user's own settings and from what was seen."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from trackside.wire.markdown import table_cell
from trackside.wire.records import Hello
from tracksided.reports import Scalar, StepReport, Text, known_scalars

# What scripts and libraries call a setting, in the order in which it is looked for. Dotted names
# are paths; all are compared without case.
BATCH_SIZE = (
    "batch_size",
    "train_batch_size",
    "per_device_train_batch_size",
    "micro_batch_size",
    "train_micro_batch_size_per_gpu",
    "per_gpu_train_batch_size",
)
SEQUENCE_LENGTH = (
    "sequence_length",
    "seq_length",
    "seq_len",
    "max_seq_length",
    "max_seq_len",
    "max_length",
    "model_max_length",
    "block_size",
    "context_length",
    "n_ctx",
    "max_position_embeddings",
)
ACCUMULATION_STEPS = (
    "gradient_accumulation_steps",
    "accumulate_grad_batches",
    "grad_accumulation_steps",
    "grad_accum_steps",
    "accumulation_steps",
)
MAX_ROWS = 200


def add_training_settings(report: StepReport) -> StepReport:
    """Return the report of the first step of a run with the settings of the run."""
    return replace(
        report,
        scalars=(*report.scalars, *training_settings_scalars(report)),
        texts=(*report.texts, training_settings_text(report.hello, report.step)),
    )


def training_settings_scalars(report: StepReport) -> Iterator[Scalar]:
    """Yield the ``Config/*`` tags; what is neither set nor seen yields nothing.

    The user's settings win over what was seen: micro-batches of the step, and the keys of its
    first self-attention.

    Args:
        report: of the first step of a run.
    """
    settings = dict(flatten(report.hello.config))
    values = {
        "Config/Batch_Size": find_number(settings, BATCH_SIZE),
        "Config/Sequence_Length": _or(
            find_number(settings, SEQUENCE_LENGTH), _seen_length(report.statistics)
        ),
        "Config/Gradient_Accumulation_Steps": _or(
            find_number(settings, ACCUMULATION_STEPS), report.history.get("micro_batches")
        ),
    }
    return known_scalars(values, report.step)


def training_settings_text(hello: Hello, step: int) -> Text:
    """Return ``Config/Training_Settings``: a table of what is known of the run's settings."""
    known = {
        "run": hello.run,
        "world_size": hello.world_size,
        "hostname": hello.hostname,
        "sampled": f"every {hello.every} steps",
        "checkpoints": ", ".join(hello.checkpoints) or None,
        **{f"version of {name}": version for name, version in sorted(hello.versions.items())},
    }
    rows = [(name, value) for name, value in known.items() if value is not None]
    settings = list(flatten(hello.config))
    rows += settings[:MAX_ROWS]
    lines = ["| setting | value |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    if len(settings) > MAX_ROWS:
        lines.append(f"| | and {len(settings) - MAX_ROWS} more: see run.json |")
    return Text("Config/Training_Settings", "\n".join(lines), step)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested settings; lists stay whole."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def find_number(settings: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """Return the first of these settings that is a number above 0.

    A name is found at the top first, then at the end of any path.

    Args:
        settings: dotted names.
        names: in the order in which they are looked for.
    """
    numbers = {
        name.lower(): float(value)
        for name, value in settings.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    }
    for wanted in names:
        if wanted in numbers:
            return numbers[wanted]
        below = [name for name in numbers if name.endswith(f".{wanted}")]
        if below:
            return numbers[below[0]]
    return None


def _seen_length(statistics: Mapping[str, Any]) -> int | None:
    """Return the keys of the first self-attention, those of a decoder first."""
    for stack in ("decoder", "encoder"):
        for layer in statistics.get(stack, ()):
            if layer.get("type") == "self_attention":
                return int(layer["shape"][-1])  # [heads, queries, keys]
    return None


def _or(value: float | None, other: float | None) -> float | None:
    return other if value is None else value


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return table_cell(text)
