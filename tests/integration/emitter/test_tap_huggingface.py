"""Attention captured from Hugging Face models, against the weights that they return themselves."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SAMPLE = 1
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "attention_dropout": 0.0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Case:
    """A tiny model, its input, and where its attention is expected: path of layer i by group."""

    build: Callable[[], Any]
    inputs: dict[str, torch.Tensor]
    paths: dict[tuple[str, str], str]


def tokens(*, is_padded: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.ones(3, 6, dtype=torch.long)
    if is_padded:
        mask[SAMPLE, 4:] = 0
    return {"input_ids": torch.randint(3, 50, (3, 6)), "attention_mask": mask}


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50,
            n_embd=32,
            n_layer=2,
            n_head=4,
            bos_token_id=1,
            eos_token_id=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=64)
    )


def bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **NO_DROPOUT))


def vit() -> nn.Module:
    return transformers.ViTModel(
        transformers.ViTConfig(image_size=16, patch_size=8, **SIZES, **NO_DROPOUT)
    )


def t5() -> nn.Module:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=50,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


def bart() -> nn.Module:
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=50,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            dropout=0.0,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        )
    )


def gpt_oss() -> nn.Module:
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            **SIZES,
            num_key_value_heads=2,
            head_dim=8,
            num_local_experts=2,
            num_experts_per_tok=1,
            sliding_window=3,
            layer_types=["sliding_attention", "full_attention"],
            pad_token_id=0,
        )
    )


SELF, CROSS = "self_attention", "cross_attention"
CASES = {
    "gpt2": Case(gpt2, tokens(), {("decoder", SELF): "transformer.h.{}.attn"}),
    "llama": Case(llama, tokens(), {("decoder", SELF): "model.layers.{}.self_attn"}),
    "llama without padding": Case(
        llama, tokens(is_padded=False), {("decoder", SELF): "model.layers.{}.self_attn"}
    ),
    "bert": Case(bert, tokens(), {("encoder", SELF): "bert.encoder.layer.{}.attention.self"}),
    "vit": Case(
        vit,
        {"pixel_values": torch.linspace(-1, 1, 2304).sin().view(3, 3, 16, 16)},
        {("encoder", SELF): "layers.{}.attention"},
    ),
    "bart": Case(
        bart,
        {**tokens(), "labels": torch.arange(3, 15).view(3, 4)},
        {
            ("encoder", SELF): "model.encoder.layers.{}.self_attn",
            ("decoder", SELF): "model.decoder.layers.{}.self_attn",
            ("decoder", CROSS): "model.decoder.layers.{}.encoder_attn",
        },
    ),
    "gpt_oss": Case(gpt_oss, tokens(), {("decoder", SELF): "model.layers.{}.self_attn"}),
    "t5": Case(
        t5,
        {**tokens(), "labels": torch.arange(3, 15).view(3, 4)},
        {
            ("encoder", SELF): "encoder.block.{}.layer.0.SelfAttention",
            ("decoder", SELF): "decoder.block.{}.layer.0.SelfAttention",
            ("decoder", CROSS): "decoder.block.{}.layer.1.EncDecAttention",
        },
    ),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(logging.ERROR)
    yield
    transformers.utils.logging.set_verbosity(level)


def sharpen(model: nn.Module) -> None:
    """Enlarge the weights: on maps that are nearly uniform a wrong scale would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.any():
                parameter.mul_(0.25 / parameter.std())


def own_weights(model: Any, case: Case) -> dict[tuple[str, str, int], np.ndarray]:
    """Return the sample's attention as the eager model returns it, by stack, type and layer."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**case.inputs, output_attentions=True)
    fields = {
        ("encoder", SELF): "encoder_attentions",
        ("decoder", SELF): "decoder_attentions",
        ("decoder", CROSS): "cross_attentions",
    }
    if len(case.paths) == 1:
        fields = dict.fromkeys(case.paths, "attentions")
    return {
        (*group, layer): weights[SAMPLE].double().numpy()
        for group, field in fields.items()
        for layer, weights in enumerate(output[field])
    }


def reconstruct(captured: CapturedAttention, *, with_mask: bool = True) -> np.ndarray:
    """Compute the weights of a call in float64, [heads, queries, keys]."""
    call, tensors = captured.call, captured.tensors
    if "logits" in tensors:
        logits = tensors["logits"].double().numpy()
    else:
        key = tensors["key"].double().numpy()[list(call.key_heads)]
        logits = call.scale * tensors["query"].double().numpy() @ key.transpose(0, 2, 1)
        if call.is_causal and with_mask:
            logits[:, np.triu(np.ones(logits.shape[1:], dtype=bool), 1)] = -np.inf
        mask = tensors.get("mask")
        if mask is not None and with_mask:
            added = mask.double().numpy()
            logits = (
                np.where(added, logits, -np.inf) if mask.dtype is torch.bool else logits + added
            )
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total = powers.sum(axis=-1, keepdims=True)
    if "sinks" in tensors:
        sinks = tensors["sinks"].double().numpy()[:, None, None]
        total += np.exp(sinks - logits.max(axis=-1, keepdims=True))
    return powers / total


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_captured_attention_is_the_model_s_own(name: str, implementation: str) -> None:
    case = CASES[name]
    torch.manual_seed(1)
    model = case.build()
    sharpen(model)
    expected = own_weights(model, case)
    if implementation == "sdpa" and not model._supports_sdpa:
        pytest.skip("the model only runs eager")
    model.set_attn_implementation(implementation)
    model.train()
    errors: list[tuple[str, BaseException]] = []
    tap = AttentionTap(
        model,
        layers=None,
        heads="all",
        sample=SAMPLE,
        max_queries=512,
        on_error=lambda *error: errors.append(error),
    )

    tap.install()
    tap.arm()
    model(**case.inputs)
    captured = tap.take()
    tap.remove()

    assert errors == []
    assert tap.notes == ()
    found = {(one.call.stack, one.call.type, one.call.layer): one for one in captured}
    assert found.keys() == expected.keys()
    for key, one in found.items():
        assert one.call.module == case.paths[key[:2]].format(key[2])
        assert np.abs(reconstruct(one) - expected[key]).max() <= 1e-5  # the contract, in fp32
        assert expected[key].max(axis=-1).mean() > 0.3  # sharp enough for that to mean something
    masked = [one for one in captured if one.call.is_causal or "mask" in one.tensors]
    for one in masked:  # negative control
        key = (one.call.stack, one.call.type, one.call.layer)
        assert np.abs(reconstruct(one, with_mask=False) - expected[key]).max() > 0.01
    assert masked or name == "vit" or implementation == "eager"


def test_grouped_keys_are_sent_unexpanded_where_the_model_does_not_expand_them() -> None:
    model = llama()
    tap = AttentionTap(
        model, layers=None, heads="all", sample=0, max_queries=512, on_error=lambda *_: None
    )

    tap.install()
    tap.arm()
    model(**tokens(is_padded=False))
    captured = tap.take()
    tap.remove()

    assert [one.tensors["key"].shape[0] for one in captured] == [2, 2]
    assert {one.call.key_heads for one in captured} == {(0, 0, 1, 1)}


@pytest.mark.parametrize("build", [llama, gpt2])
def test_autocast_to_bfloat16_stays_within_the_contract(build: Callable[[], Any]) -> None:
    torch.manual_seed(1)
    model = build()
    sharpen(model)
    inputs = tokens()
    model.set_attn_implementation("eager")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(**inputs, output_attentions=True).attentions[0][SAMPLE].double().numpy()
    model.set_attn_implementation("sdpa")
    tap = AttentionTap(
        model, layers=(0,), heads="all", sample=SAMPLE, max_queries=512, on_error=lambda *_: None
    )

    tap.install()
    tap.arm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**inputs)
    (captured,) = tap.take()
    tap.remove()

    assert np.abs(reconstruct(captured) - expected).max() <= 2e-2
