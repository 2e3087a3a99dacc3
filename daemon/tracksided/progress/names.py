"""What trainers call things: tags and log keys of one meaning.

Hugging Face's Trainer logs ``loss``, ``grad_norm``, ``eval_loss``, its TensorBoard callback
``train/loss``, ``eval/loss``; trackside writes ``Training/Loss``, ``Eval/loss``; Lightning and
loops written by hand what their users choose.
"""

from collections.abc import Iterable

from tracksided.progress.curve import Series

LOSS = (
    "training/loss",
    "train/loss",
    "loss/train",
    "loss/training",
    "train_loss",
    "training_loss",
    "train_loss_step",
    "train_loss_epoch",
    "loss",
    "trainer/loss",
    "custom/loss",
)
LEARNING_RATE = (
    "training/learning_rate",
    "train/learning_rate",
    "train/lr",
    "learning_rate",
    "lr",
    "trainer/learning_rate",
)
GRADIENT_NORM = (
    "training/gradnorm",
    "training/gradient_norm",
    "train/grad_norm",
    "grad_norm",
    "gradient_norm",
    "trainer/grad_norm",
    "grad_2.0_norm_total",
)
CLIP_RATE = ("training/clip_rate",)
EPOCH = ("training/epoch", "train/epoch", "epoch")
TOKENS = ("num_input_tokens_seen", "train/num_input_tokens_seen", "trainer/num_input_tokens_seen")
# What the Trainer logs of the whole training, by the field of `tracksided.progress.curve.Totals`.
TOTALS = {
    "floating_point_operations": "total_flos",
    "training_seconds": "train_runtime",
    "mean_loss": "train_loss",
    "steps_per_second": "train_steps_per_second",
    "samples_per_second": "train_samples_per_second",
}
SECONDS_PER_STEP = ("training/step_seconds",)

_CUSTOM = "Custom/"  # trackside's, of what scripts log without a group
_LR_PREFIX = "lr-"  # Lightning: lr-AdamW
_EVALUATION_PREFIXES = ("eval", "val", "valid", "validation", "test")
_EVALUATION_GROUPS = tuple(f"/{prefix}" for prefix in _EVALUATION_PREFIXES)
# What the Trainer logs of the evaluation itself, not of the model.
_COSTS = (
    "_runtime",
    "_samples_per_second",
    "_steps_per_second",
    "_jit_compilation_time",
    "_model_preparation_time",
    "num_input_tokens_seen",
)


def find(names: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """Return the first wanted name that is there, as it is spelt; None where there is none."""
    spelt = {name.lower(): name for name in names}
    found = next((spelt[name] for name in wanted if name in spelt), None)
    if found is None and wanted is LEARNING_RATE:
        return next((name for name in sorted(spelt.values()) if name.startswith(_LR_PREFIX)), None)
    return found


def evaluation_name(name: str) -> str | None:
    """Return how a metric on held-out data is called here, None for all other names.

    ``eval_loss``, ``eval/loss``, ``Eval/loss`` are all ``eval_loss``; ``Loss/val`` is ``val_loss``.
    """
    found = _evaluation_name(name.removeprefix(_CUSTOM))
    return None if found is None or found.lower().endswith(_COSTS) else found


def held_out(series: Iterable[tuple[str, Series]]) -> dict[str, Series]:
    """Return the metrics on held-out data among named series, by `evaluation_name`."""
    named = ((evaluation_name(name), found) for name, found in series)
    return {name: found for name, found in named if name is not None}


def _evaluation_name(name: str) -> str | None:
    for separator in ("/", "_"):
        prefix, found, metric = name.partition(separator)
        if found and metric and prefix.lower() in _EVALUATION_PREFIXES:
            return f"{prefix.lower()}_{metric}"
    lowered = name.lower()
    if lowered.endswith(_EVALUATION_GROUPS):
        metric, _, group = lowered.rpartition("/")
        return f"{group}_{metric}"
    return None
