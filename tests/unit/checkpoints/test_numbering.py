"""The numbers of a name, and what each of them is."""

import pytest

from tracksided.checkpoints.numbering import Kind, read_name


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("GlobalStep88.pt", [(Kind.STEP, "88")]),
        ("iter_0005000.pt", [(Kind.STEP, "0005000")]),
        ("footstep.pt", []),
        ("v" + "9" * 40 + ".pt", [(Kind.IDENTITY, "v" + "9" * 40)]),
        ("9" * 40 + ".pt", [(Kind.IDENTITY, "9" * 40)]),
        ("model_7b_100.pt", [(Kind.IDENTITY, "7b"), (Kind.NUMBER, "100")]),
        ("e10.pt", [(Kind.EPOCH, "10")]),
        ("net_1000_steps.pt", [(Kind.STEP, "1000")]),
        ("resnet50_step_100.pt", [(Kind.NUMBER, "50"), (Kind.STEP, "100")]),
        ("model_50_epoch_3.pt", [(Kind.NUMBER, "50"), (Kind.EPOCH, "3")]),
        (
            "gpt--val_loss=0.10-step=100-consumed_samples=800.0-last.ckpt",
            [(Kind.STEP, "100"), (Kind.PASSING, "consumed_samples=800.0")],
        ),
        ("lr1e-5_3.pt", [(Kind.PASSING, "1e-5"), (Kind.NUMBER, "3")]),
        ("w_3f9ac01.pt", [(Kind.PASSING, "3f9ac01")]),
        ("model-00001-of-00002.safetensors", [(Kind.PLACE, "00001-of-00002")]),
        ("Nov24_20-45-01.pt", [(Kind.PASSING, "nov24_20-45-01")]),
        ("a\ue000b_1.pt", [(Kind.NUMBER, "1")]),
    ],
)
def test_numbers_are_told_apart(name: str, kinds: list[tuple[Kind, str]]) -> None:
    assert [(part.kind, part.text) for part in read_name(name).parts] == kinds
