"""A model of several modules, each in a directory of its own, averaged and loaded again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance

library = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

pytestmark = [
    pytest.mark.integration,
    # The library's own advice and deprecations: not about the averaging.
    pytest.mark.filterwarnings("ignore"),
]

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c")
WIDTH = 16


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A small encoder with its tokenizer."""
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY))
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=WIDTH,
    )
    BertModel(config).save_pretrained(tmp_path / "base")
    BertTokenizerFast(str(vocabulary)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_pooling_goes_along_and_the_dense_layer_is_averaged(tmp_path: Path, base: Path) -> None:
    out = tmp_path / "checkpoints"
    states = []
    for step in (1, 2, 3):
        torch.manual_seed(step)
        parts = [
            modules.Transformer(str(base)),
            modules.Pooling(WIDTH, pooling_mode="max"),
            modules.Dense(WIDTH, 4),
            modules.Normalize(),
        ]
        model = library.SentenceTransformer(modules=parts, device="cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
        model.save(str(out / f"checkpoint-{step}"))
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    made = run_average(AverageRequest(directory=out, patterns=("checkpoint-*/",)))

    assert isinstance(made, Provenance)
    assert made.dropped == ()
    loaded = library.SentenceTransformer(str(out / "averaged"), device="cpu")
    assert [type(part).__name__ for part in loaded] == [type(part).__name__ for part in model]
    assert loaded[1].pooling_mode == model[1].pooling_mode
    found = loaded.state_dict()
    assert found.keys() == states[0].keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            mean = np.mean([state[name].double().numpy() for state in states], axis=0)
            assert torch.equal(tensor, torch.from_numpy(mean).float()), name
    assert "2.linear.weight" in found
    assert loaded.encode(["a b"]).shape == (1, 4)
