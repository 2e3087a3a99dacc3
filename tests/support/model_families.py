"""Tiny Hugging Face models of many families, what goes into them, and where attention lies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import transformers
from torch import nn
from torch.nn import functional

BATCH, LENGTH, TARGETS, VOCABULARY = 3, 7, 5, 50
NUM_LAYERS = 2
PADDED = 1  # the sample of the batch that has padding
PADDING = 2  # tokens of it; fewer than a sliding window, so that no query sees padding only

SELF, CROSS = "self_attention", "cross_attention"
Group = tuple[str, str]  # stack, type
DECODER_ONLY: Group = ("decoder", SELF)
ENCODER_ONLY: Group = ("encoder", SELF)
Inputs = dict[str, torch.Tensor]

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}


@dataclass(frozen=True)
class Family:
    """One kind of model. ``build`` takes the rate of every dropout in it."""

    build: Callable[[float], Any]
    paths: Mapping[Group, str]
    """Module path of layer ``{}`` of every stack and type."""

    inputs: Callable[[str], Inputs]
    """Takes the side of the padding: ``right``, ``left`` or ``none``."""

    implementations: tuple[str, ...] = ("eager", "sdpa")


def tokens(side: str) -> Inputs:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCABULARY, (BATCH, LENGTH), generator=generator)
    if side == "none":
        return {"input_ids": ids, "labels": ids}
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[PADDED, padding(side)] = 0
    ids = torch.where(mask.bool(), ids, 1)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids}


def padding(side: str) -> slice:
    """The padded positions of sample `PADDED`."""
    return slice(LENGTH - PADDING, None) if side == "right" else slice(0, PADDING)


def _translation(side: str) -> Inputs:
    generator = torch.Generator().manual_seed(6)
    labels = torch.randint(3, VOCABULARY, (BATCH, TARGETS), generator=generator)
    return {**tokens(side), "labels": labels}


def _images(_: str) -> Inputs:
    pixels = torch.linspace(-1, 1, BATCH * 3 * 16 * 16).mul(40).sin()
    return {"pixel_values": pixels.view(BATCH, 3, 16, 16), "labels": torch.arange(BATCH)}


def _speech(_: str) -> Inputs:
    features = torch.linspace(-1, 1, BATCH * 8 * 2 * LENGTH).mul(40).sin()
    return {
        "input_features": features.view(BATCH, 8, 2 * LENGTH),
        "labels": tokens("none")["labels"],
    }


def _gpt2(dropout: float) -> nn.Module:
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=NUM_LAYERS, n_head=4, bos_token_id=0,
        eos_token_id=2, pad_token_id=1, **rates,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def _grouped(model: str, config: str, **more: Any) -> Callable[[float], nn.Module]:
    def build(dropout: float) -> nn.Module:
        settings = getattr(transformers, config)(**_GROUPED, attention_dropout=dropout, **more)
        return getattr(transformers, model)(settings)

    return build


def _bidirectional(model: str, config: str) -> Callable[[float], nn.Module]:
    def build(dropout: float) -> nn.Module:
        rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
        return getattr(transformers, model)(getattr(transformers, config)(**_SIZES, **rates))

    return build


def _vit(dropout: float) -> nn.Module:
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4, intermediate_size=48, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, num_labels=BATCH,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def _t5(dropout: float) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=NUM_LAYERS, num_heads=4,
        dropout_rate=dropout, decoder_start_token_id=1, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def _bart_sizes(dropout: float) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "encoder_layers": NUM_LAYERS,
        "decoder_layers": NUM_LAYERS,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "dropout": dropout,
        "attention_dropout": dropout,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }


def _bart(dropout: float) -> nn.Module:
    sizes = _bart_sizes(dropout)
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(**sizes, forced_eos_token_id=None)
    )


def _whisper(dropout: float) -> nn.Module:
    config = transformers.WhisperConfig(
        **_bart_sizes(dropout), num_mel_bins=8, max_source_positions=LENGTH,
        max_target_positions=32, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


def _seq2seq(own: str, cross: str) -> dict[Group, str]:
    return {
        ("encoder", SELF): f"model.encoder.layers.{{}}.{own}",
        ("decoder", SELF): f"model.decoder.layers.{{}}.{own}",
        ("decoder", CROSS): f"model.decoder.layers.{{}}.{cross}",
    }


_LAYERS = {DECODER_ONLY: "model.layers.{}.self_attn"}
_BART_PATHS = _seq2seq("self_attn", "encoder_attn")
FAMILIES = {
    "gpt2": Family(_gpt2, {DECODER_ONLY: "transformer.h.{}.attn"}, tokens),
    "llama": Family(_grouped("LlamaForCausalLM", "LlamaConfig"), _LAYERS, tokens),
    "qwen3": Family(_grouped("Qwen3ForCausalLM", "Qwen3Config"), _LAYERS, tokens),
    "mistral": Family(
        _grouped("MistralForCausalLM", "MistralConfig", sliding_window=3), _LAYERS, tokens
    ),
    "gemma": Family(_grouped("GemmaForCausalLM", "GemmaConfig"), _LAYERS, tokens),
    "gemma2": Family(
        _grouped(
            "Gemma2ForCausalLM", "Gemma2Config", sliding_window=3, attn_logit_softcapping=2.0
        ),
        _LAYERS,
        tokens,
        implementations=("eager",),
    ),
    "gpt_oss": Family(
        _grouped(
            "GptOssForCausalLM",
            "GptOssConfig",
            num_local_experts=2,
            num_experts_per_tok=1,
            sliding_window=3,
            layer_types=["sliding_attention", "full_attention"],
        ),
        _LAYERS,
        tokens,
        implementations=("eager",),
    ),
    "granite_swa": Family(  # sinks that come in after softmax
        _grouped(
            "GraniteSWAForCausalLM",
            "GraniteSWAConfig",
            sliding_window=3,
            layer_types=["sliding_attention", "full_attention"],
        ),
        _LAYERS,
        tokens,
        implementations=("eager",),
    ),
    "mixtral": Family(
        _grouped(
            "MixtralForCausalLM", "MixtralConfig", num_local_experts=3, num_experts_per_tok=2
        ),
        _LAYERS,
        tokens,
    ),
    "bert": Family(
        _bidirectional("BertForMaskedLM", "BertConfig"),
        {ENCODER_ONLY: "bert.encoder.layer.{}.attention.self"},
        tokens,
    ),
    "roberta": Family(
        _bidirectional("RobertaForMaskedLM", "RobertaConfig"),
        {ENCODER_ONLY: "roberta.encoder.layer.{}.attention.self"},
        tokens,
    ),
    "vit": Family(_vit, {ENCODER_ONLY: "vit.layers.{}.attention"}, _images),
    "t5": Family(
        _t5,
        {
            ("encoder", SELF): "encoder.block.{}.layer.0.SelfAttention",
            ("decoder", SELF): "decoder.block.{}.layer.0.SelfAttention",
            ("decoder", CROSS): "decoder.block.{}.layer.1.EncDecAttention",
        },
        _translation,
    ),
    "bart": Family(_bart, _BART_PATHS, _translation),
    "whisper": Family(_whisper, _BART_PATHS, _speech),
}  # fmt: skip


def build(name: str, implementation: str, *, dropout: float = 0.0, seed: int = 3) -> Any:
    """Make a model in train mode, always the same for the same arguments."""
    torch.manual_seed(seed)
    model = FAMILIES[name].build(dropout)
    sharpen(model)
    model.set_attn_implementation(implementation)
    model.config.use_cache = False
    return model.train()


def sharpen(model: nn.Module, spread: float = 0.25) -> None:
    """Enlarge the weights: on maps that are nearly uniform a wrong scale would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.any():
                parameter.mul_(spread / parameter.std())


def own_maps(name: str, model: Any, inputs: Inputs) -> dict[tuple[str, str, int], torch.Tensor]:
    """Return what the model returns when it runs eager, [heads, queries, keys] of `PADDED`."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    model.set_attn_implementation(implementation)
    fields: dict[Group, str] = {
        ("encoder", SELF): "encoder_attentions",
        ("decoder", SELF): "decoder_attentions",
        ("decoder", CROSS): "cross_attentions",
    }
    paths = FAMILIES[name].paths
    if len(paths) == 1:
        fields = dict.fromkeys(paths, "attentions")
    return {
        (*group, layer): weights[PADDED].float()
        for group, field in fields.items()
        for layer, weights in enumerate(output[field])
    }


def kernel_maps(model: Any, inputs: Inputs) -> list[torch.Tensor]:
    """Return the weights that torch's own kernel uses, in order of execution, of `PADDED`.

    Attention to values that are the identity matrix is the attention itself. The eager model is
    no reference where the kernel rounds less than it does.
    """
    found: list[torch.Tensor] = []
    original = functional.scaled_dot_product_attention

    def with_identity(query: Any, key: Any, value: Any, **options: Any) -> torch.Tensor:
        identity = torch.eye(key.shape[2], dtype=key.dtype).expand(*key.shape[:2], -1, -1)
        found.append(original(query, key, identity, **options)[PADDED].detach().float())
        return original(query, key, value, **options)

    # With gradients, as in training: without, another kernel runs and later layers differ.
    with mock.patch.object(functional, "scaled_dot_product_attention", with_identity):
        model(**inputs)
    return found
