from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trackside.capture.modules import Ancestor, Place
from trackside.capture.naming import ModelTraits, classify
from trackside.capture.sources.call import AttentionCall, Kept

NOTHING = ModelTraits(has_encoder=False, has_decoder=False)
BOTH = ModelTraits(has_encoder=True, has_decoder=True)
ENCODER = ModelTraits(has_encoder=True, has_decoder=False)


def call(**changes: object) -> AttentionCall:
    def read(kept: Kept) -> Mapping[str, torch.Tensor]:
        raise NotImplementedError(kept)

    plain = {
        "batch_size": 1,
        "num_heads": 1,
        "num_key_heads": 1,
        "num_queries": 4,
        "num_keys": 4,
        "scale": 1.0,
        "is_causal": False,
        "is_causal_hint": False,
        "is_hand_written": False,
        "shares_sequence": None,
        "read": read,
    }
    return AttentionCall(**{**plain, **changes})


def place(path: str, *class_names: str, **attributes: object) -> Place:
    """Make modules along ``path``; the attributes are those of the last."""
    names = ["", *path.split(".")] if path else [""]
    classes = [*class_names, *["Module"] * (len(names) - len(class_names))]
    lineage = []
    for name, class_name in zip(names, classes, strict=True):
        module = type(class_name, (nn.Module,), {})()
        lineage.append(Ancestor(name, module))
    for name, value in attributes.items():
        setattr(lineage[-1].module, name, value)
    return Place(tuple(lineage))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (place("bert.encoder.layer.0.attention.self"), "encoder"),
        (place("layers.0.attn", "ViTEncoder"), "encoder"),
        (place("decoder.block.0.layer.0.SelfAttention"), "decoder"),
        (place("layers.0.self_attn", "Model", "ModuleList", "LlamaDecoderLayer"), "decoder"),
        (place("decoder.bert.encoder.layer.0", "EncoderDecoderModel"), "decoder"),
        (place("h.0.attn", "GPT2Model"), "decoder"),
        (place("blocks.0", "MyForCausalLM"), "decoder"),
        (place("blocks.0"), "encoder"),
        (place("blocks.0", is_causal=True), "decoder"),
        (place("blocks.0", config=SimpleNamespace(is_decoder=True)), "decoder"),
        (place("blocks.0", config=SimpleNamespace(is_encoder_decoder=True)), "decoder"),
        (place("", "GPT"), "decoder"),
        (place(""), "encoder"),
    ],
)
def test_names_and_configurations_tell_the_stack(where: Place, expected: str) -> None:
    assert classify(call(), where, NOTHING) == (expected, "self_attention")


def test_a_causal_call_without_a_name_is_a_decoder() -> None:
    assert classify(call(is_causal=True), place("blocks.0"), NOTHING)[0] == "decoder"
    assert classify(call(is_causal_hint=True), place("blocks.0"), NOTHING)[0] == "decoder"


def test_a_causal_encoder_is_a_decoder_unless_the_model_has_one() -> None:
    where = place("transformer_encoder.layers.0.self_attn")

    assert classify(call(is_causal=True), where, ENCODER)[0] == "decoder"
    assert classify(call(is_causal=True), where, BOTH)[0] == "encoder"
    assert classify(call(), where, ENCODER)[0] == "encoder"


def test_hand_written_softmax_is_a_decoder_unless_its_module_denies_it() -> None:
    hand_written = call(is_hand_written=True)

    assert classify(hand_written, place("blocks.0"), NOTHING)[0] == "decoder"
    assert classify(hand_written, place("blocks.0", is_causal=False), NOTHING)[0] == "encoder"
    assert classify(hand_written, place("encoder.0"), NOTHING)[0] == "encoder"


@pytest.mark.parametrize(
    "where",
    [
        place("decoder.layers.0.encoder_attn"),
        place("decoder.block.0.layer.1.EncDecAttention"),
        place("encoder.layer.0.crossattention.self", "M", "M", "M", "M", "M", "BertSelfAttention"),
        place("blocks.0.cross_attn"),
        place("layers.0.src_attn"),
        place("blocks.0.attn", "M", "M", "M", "CrossAttention"),
        place("layers.0.multihead_attn", "M", "M", "TransformerDecoderLayer"),
    ],
)
def test_names_tell_cross_attention(where: Place) -> None:
    assert classify(call(), where, BOTH) == ("decoder", "cross_attention")


def test_the_innermost_name_tells_the_type() -> None:
    where = place("cross_attention_block.self_attn")

    assert classify(call(num_keys=9), where, BOTH)[1] == "self_attention"


def test_one_sequence_or_two_tell_the_type_where_no_name_does() -> None:
    where = place("layers.0.attn")

    assert classify(call(shares_sequence=False), where, NOTHING)[1] == "cross_attention"
    assert classify(call(shares_sequence=True, num_keys=9), where, BOTH)[1] == "self_attention"
    called_so = Place(where.lineage, shares_sequence=False)
    assert classify(call(), called_so, NOTHING)[1] == "cross_attention"
    assert classify(call(shares_sequence=True), called_so, NOTHING)[1] == "self_attention"


def test_other_keys_than_queries_are_cross_attention_beside_an_encoder() -> None:
    where = place("layers.0.attn")

    assert classify(call(num_keys=9), where, BOTH)[1] == "cross_attention"
    assert classify(call(num_keys=9), where, NOTHING)[1] == "self_attention"


def test_a_block_with_cross_attention_somewhere_in_it_has_self_attention_too() -> None:
    where = place("down.0.attn1", "UNet", "CrossAttnDownBlock2D", "TransformerBlock", "Attention")
    given = Place(where.lineage, has_encoder_states=True)

    assert classify(call(), where, NOTHING)[1] == "self_attention"
    assert classify(call(), given, NOTHING)[1] == "self_attention"  # of both, put together
    assert classify(call(num_keys=9), given, NOTHING)[1] == "cross_attention"


def test_pooled_queries_in_an_encoder_are_its_own() -> None:
    pooled = call(num_queries=2)

    assert classify(pooled, place("encoder.blocks.1.0.attention"), BOTH) == (
        "encoder",
        "self_attention",
    )
    assert classify(pooled, place("blocks.1.0.attention"), BOTH) == ("decoder", "cross_attention")


def test_a_lone_linear_named_decoder_is_no_decoder() -> None:
    bert = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(1, 1)), "decoder": nn.Linear(1, 1)})
    modules = [Ancestor(name.rpartition(".")[2], module) for name, module in bert.named_modules()]

    assert ModelTraits.of(modules) == ENCODER
