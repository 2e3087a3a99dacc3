"""What trainers call things."""

import pytest

from tracksided.progress.names import LEARNING_RATE, LOSS, evaluation_name, find


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("eval_loss", "eval_loss"),
        ("Eval/loss", "eval_loss"),
        ("eval/loss", "eval_loss"),
        ("val_acc", "val_acc"),
        ("Custom/val_acc", "val_acc"),
        ("Custom/acc", None),
        ("Loss/val", "val_loss"),
        ("test/f1", "test_f1"),
        ("eval_runtime", None),
        ("eval/samples_per_second", None),
        ("train/loss", None),
        ("evaluation", None),
        ("value", None),
        ("eval_", None),
    ],
)
def test_metrics_on_held_out_data_have_one_name(tag: str, name: str | None) -> None:
    assert evaluation_name(tag) == name


def test_first_of_the_known_names_wins_however_it_is_spelt() -> None:
    assert find(["loss", "Train/Loss"], LOSS) == "Train/Loss"
    assert find(["lr-AdamW", "x"], LEARNING_RATE) == "lr-AdamW"
    assert find(["accuracy"], LOSS) is None
