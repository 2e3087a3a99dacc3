"""Which stack an attention call belongs to, and whether it is cross attention.

No value of a tensor is read, since that would wait for the device. The first rule that applies
decides; "name" is a part of the module path or the name of a class along it, in any case.

Type:

1. A part of the path says it, innermost first, else the class of the module or of the one around
   it: ``self_attn``, ``SelfAttention``; ``crossattention``, ``cross_attn``, ``encoder_attn``,
   ``EncDecAttention``, ``src_attn``, and ``multihead_attn`` of a decoder layer.
2. Keys and queries are known to come from one tensor (self) or from two (cross): by the arguments
   of `torch.nn.MultiheadAttention`, or of a module that was called with query, key and value.
3. As many keys as queries: self. Else cross where the module is called with
   ``encoder_hidden_states`` (Diffusers), or the model has an encoder and the path does not start
   in it (Funnel pools its queries there). Else self.

Stack of cross attention: decoder. Stack of self attention:

============================================== ==================================================
what is seen                                   stack
============================================== ==================================================
outermost name with "decoder"                  decoder
outermost name with "encoder"                  encoder; but decoder where the call is causal and
                                               the model has no decoder (a GPT of encoder layers)
the call is causal                             decoder
the module says ``is_causal = False``          encoder
a class with "CausalLM", "GPT" or "LMHead",    decoder
or a configuration with ``is_encoder_decoder``
only a softmax was seen (hand-written)         decoder
nothing of all that                            encoder
============================================== ==================================================

A call is causal by its flag, by a mask of [queries, keys] for the whole batch, by
``is_causal = True`` of its module or by ``is_decoder = True`` of the nearest configuration.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trackside.capture.modules import Ancestor, Place
from trackside.capture.sources.call import AttentionCall
from trackside.wire.records import AttentionType, Stack

_SELF_WORDS = ("selfatt", "self_att")
_CROSS_WORDS = (
    "crossatt",
    "cross_att",
    "encoder_att",
    "encoderatt",
    "encdecatt",
    "enc_dec_att",
    "src_att",
)
_CAUSAL_CLASSES = ("CausalLM", "GPT", "LMHead")


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What a model as a whole holds."""

    has_encoder: bool
    has_decoder: bool

    @classmethod
    def of(cls, modules: Iterable[Ancestor]) -> "ModelTraits":
        """Look for encoders and decoders with modules inside; a lone Linear is neither."""
        words = {_stack_word(ancestor) for ancestor in modules if any(ancestor.module.children())}
        return cls("encoder" in words, "decoder" in words)


def classify(call: AttentionCall, place: Place, traits: ModelTraits) -> tuple[Stack, AttentionType]:
    """Return stack and type of a call; see the table above."""
    kind = _type(call, place, traits)
    return ("decoder" if kind == "cross_attention" else _stack(call, place, traits)), kind


def _type(call: AttentionCall, place: Place, traits: ModelTraits) -> AttentionType:
    named = _named_type(place)
    if named is not None:
        return named
    shares = place.shares_sequence if call.shares_sequence is None else call.shares_sequence
    if shares is not None:
        return "self_attention" if shares else "cross_attention"
    is_outside = traits.has_encoder and _named_stack(place) != "encoder"
    has_two = place.has_encoder_states or is_outside
    differs = call.num_queries != call.num_keys
    return "cross_attention" if differs and has_two else "self_attention"


def _named_type(place: Place) -> AttentionType | None:
    lineage = place.lineage
    last = lineage[-1]
    if last.name == "multihead_attn" and "Decoder" in lineage[max(len(lineage) - 2, 0)].class_name:
        return "cross_attention"
    names = [ancestor.name for ancestor in reversed(lineage)]
    # Of classes farther out a CrossAttnDownBlock2D holds self attention, too.
    class_names = [ancestor.class_name for ancestor in reversed(lineage[-2:])]
    for word in (*names, *class_names):
        lowered = word.lower()
        if any(cross in lowered for cross in _CROSS_WORDS):
            return "cross_attention"
        if any(own in lowered for own in _SELF_WORDS):
            return "self_attention"
    return None


def _stack(call: AttentionCall, place: Place, traits: ModelTraits) -> Stack:
    named = _named_stack(place)
    is_causal = _is_causal(call, place)
    if named == "encoder":
        return "decoder" if is_causal and not traits.has_decoder else "encoder"
    if named == "decoder" or is_causal:
        return "decoder"
    if getattr(place.module, "is_causal", None) is False:
        return "encoder"
    return "decoder" if call.is_hand_written or _looks_generative(place) else "encoder"


def _is_causal(call: AttentionCall, place: Place) -> bool:
    if call.is_causal or call.is_causal_hint:
        return True
    if getattr(place.module, "is_causal", None) is True:
        return True
    config = next(_configs(place), None)
    return getattr(config, "is_decoder", None) is True


def _looks_generative(place: Place) -> bool:
    class_names = [ancestor.class_name for ancestor in place.lineage]
    if any(word in name for name in class_names for word in _CAUSAL_CLASSES):
        return True
    return any(getattr(config, "is_encoder_decoder", None) is True for config in _configs(place))


def _configs(place: Place) -> Iterator[object]:
    """Yield the configurations of the module and what is around it, innermost first."""
    for ancestor in reversed(place.lineage):
        config = getattr(ancestor.module, "config", None)
        if config is not None:
            yield config


def _named_stack(place: Place) -> Stack | None:
    """Return the outermost stack that the path speaks of."""
    return next((word for word in map(_stack_word, place.lineage) if word is not None), None)


def _stack_word(ancestor: Ancestor) -> Stack | None:
    """Return the stack that a module's name speaks of; both at once say nothing."""
    words = f"{ancestor.name} {ancestor.class_name}".lower()
    is_encoder, is_decoder = "encoder" in words, "decoder" in words
    if is_encoder == is_decoder:
        return None
    return "encoder" if is_encoder else "decoder"
