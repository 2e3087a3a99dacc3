import math

import pytest
import torch

from tracksided.demo.model import (
    CONTEXT,
    GPT,
    NUM_HEADS,
    VOCABULARY,
    WIDTH,
    next_byte_loss,
    rotary_angles,
    rotate,
)


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    return GPT()


def test_a_later_byte_does_not_change_earlier_predictions(model: GPT) -> None:
    tokens = torch.randint(VOCABULARY, (2, 20))
    changed = tokens.clone()
    changed[:, 12] = (changed[:, 12] + 1) % VOCABULARY

    with torch.no_grad():
        before, after = model(tokens), model(changed)

    torch.testing.assert_close(before[:, :12], after[:, :12], rtol=0, atol=1e-6)
    assert (before[:, 12:] - after[:, 12:]).abs().amax(dim=(0, 2)).min() > 1e-6


def test_an_untrained_model_knows_nothing(model: GPT) -> None:
    tokens = torch.randint(VOCABULARY, (2, CONTEXT + 1))

    with torch.no_grad():
        loss = next_byte_loss(model(tokens[:, :-1]), tokens[:, 1:])

    # Uniform over 256 bytes is ln 256; small random logits add about half their variance.
    assert loss.item() == pytest.approx(math.log(VOCABULARY), abs=0.1)


def test_the_loss_is_the_mean_negative_log_probability() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])

    loss = next_byte_loss(logits, torch.tensor([[1, 0]]))

    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_rotation_equals_multiplication_by_complex_phases() -> None:
    x = torch.randn(2, NUM_HEADS, 16, WIDTH // NUM_HEADS, dtype=torch.float64)
    angles = rotary_angles()[:16].double()

    turned = rotate(x, angles)

    half = x.shape[-1] // 2
    expected = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * angles)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), dim=-1))


def test_scores_of_rotated_vectors_depend_on_their_distance_only() -> None:
    q, k = torch.randn(2, WIDTH // NUM_HEADS).double()
    angles = rotary_angles().double()
    time = len(angles)

    scores = rotate(q.expand(time, -1), angles) @ rotate(k.expand(time, -1), angles).T

    torch.testing.assert_close(scores[10, 3], scores[117, 110], rtol=1e-4, atol=1e-4)
