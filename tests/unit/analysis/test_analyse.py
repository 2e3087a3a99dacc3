"""The analysis of a whole step: keys, tags, guards, shedding."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tracksided import analysis as module
from tracksided.analysis import analyse
from tracksided.attention import reconstruct
from tracksided.catalog import ATTENTION_STATISTICS, PARAMETER_STATISTICS
from tracksided.reports import Picture
from tracksided.samples import AttentionSample, GradientSample, StepSamples
from tracksided.stages import AttentionMap, StepData

MakeAttention = Callable[..., AttentionSample]
MakeSamples = Callable[..., StepSamples]

run = functools.partial(
    analyse, visualize=("heatmap", "statistics"), with_pictures=True, with_statistics=True
)

# Names and order of the contract.
ATTENTION_KEYS = {
    *("layer", "module", "type", "mean", "std", "min", "max", "shape", "entropy"),
    *("entropy_per_head", "normalized_entropy", "max_logit", "sink_mass", "diagonal_mass"),
    *("previous_token_mass", "mean_distance", "head_similarity", "query_rows", "effective_rank"),
}
GRADIENT_KEYS = {
    *("norm_before_clip", "norm_after_clip", "clipped", "max_norm", "clip_rate"),
    *("nonfinite", "parameters", "cosine_to_previous"),
}
PARAMETER_KEYS = {
    *("name", "norm", "mean", "std", "abs_max", "zero_fraction", "nonfinite"),
    *("weight_norm", "update_ratio", "quantiles", "cosine_to_previous"),
}


class Broken:
    """A stage that always fails."""

    name = "entropy"

    def compute(self, _: AttentionMap) -> float:
        raise ZeroDivisionError("broken")


class BrokenRenderer:
    """A renderer that fails after its first picture."""

    name = "heatmap"

    def render(self, _: StepData) -> object:
        yield Picture("first.png", None, b"", 1, 1)
        raise MemoryError


def test_an_entry_of_a_map_has_the_keys_of_the_contract(
    make_samples: MakeSamples, make_attention: MakeAttention
) -> None:
    attention = make_attention()

    found = run(make_samples(attention=(attention,)))

    assert found.statistics.keys() == {"encoder", "decoder", "gradients", "gradient_noise_scale"}
    (entry,) = found.statistics["decoder"]
    assert entry.keys() == ATTENTION_KEYS | {s.name for s in ATTENTION_STATISTICS}
    weights = reconstruct(attention).weights.astype(np.float64)
    assert (entry["layer"], entry["module"], entry["type"]) == (0, "h.0.attn", "self_attention")
    assert entry["shape"] == [2, 4, 4]
    assert entry["query_rows"] == [0, 1, 2, 3]
    assert entry["mean"] == pytest.approx(weights.mean())
    assert entry["std"] == pytest.approx(weights.std())
    assert entry["diagonal_mass"] == pytest.approx(np.mean([np.diag(head) for head in weights]))
    assert found.statistics["encoder"] == []
    assert found.failures == {}


def test_curves_and_pictures_carry_the_tags_of_the_contract(
    make_samples: MakeSamples, make_attention: MakeAttention
) -> None:
    calls = (
        make_attention(stack="encoder"),
        make_attention(layer=2),
        make_attention(layer=2, type="cross_attention"),
    )

    found = run(make_samples(attention=calls))

    prefixes = ("encoder_layer0", "decoder_layer2_self", "decoder_layer2_cross")
    expected = [
        f"attention/{prefix}_{name}" for prefix in prefixes for name in ("mean", "std", "entropy")
    ]
    assert [scalar.tag for scalar in found.scalars] == expected
    assert {scalar.step for scalar in found.scalars} == {100}
    assert [picture.tag for picture in found.pictures] == [
        "attention/encoder_layer0_self",
        "attention/decoder_layer2_self",
        "attention/decoder_layer2_cross",
    ]


def test_gradients_have_the_keys_of_the_contract(
    make_samples: MakeSamples, gradients: GradientSample
) -> None:
    step = {
        "norm_before_clip": 5.0,
        "norm_after_clip": 1.0,
        "clipped": True,
        "max_norm": 1.0,
        "clip_rate": 0.25,
    }

    found = run(make_samples(step, gradients=gradients)).statistics["gradients"]

    assert found.keys() == GRADIENT_KEYS
    assert {key: found[key] for key in step} == step
    assert found["nonfinite"] is True
    sound, broken = found["parameters"]
    names = {s.name for s in PARAMETER_STATISTICS}
    assert sound.keys() == broken.keys() == PARAMETER_KEYS | names
    assert {key: sound[key] for key in PARAMETER_KEYS} == {
        "name": "h.0.weight",
        "norm": 2.0,
        "mean": 0.5,
        "std": pytest.approx(math.sqrt(5) / 2),
        "abs_max": 1.5,
        "zero_fraction": 0.25,
        # of -1, 0, 1, 2, three intervals: 0.01 lies 0.03 into the first
        "quantiles": pytest.approx([-0.97, -0.25, 0.5, 1.25, 1.97]),
        "cosine_to_previous": None,
        "nonfinite": False,
        "weight_norm": 3.0,
        "update_ratio": pytest.approx(0.1),
    }
    assert broken["nonfinite"] is True
    assert broken["update_ratio"] == 0


def test_histograms_hold_the_finite_sampled_elements(
    make_samples: MakeSamples, gradients: GradientSample
) -> None:
    found = run(make_samples(gradients=gradients)).histograms

    assert {histogram.tag: histogram.counts.sum() for histogram in found} == {
        "Gradients/h.0.weight": 4,
        "Model/Weights_Distribution/h.0.weight": 4,
        "Model/Weights_Distribution/h.0.bias": 2,
    }
    assert found[1].total == pytest.approx(1.1)  # the weights after the step


@pytest.mark.parametrize(
    ("step", "nonfinite"),
    [({"norm_before_clip": math.inf}, True), ({"norm_after_clip": 1.0}, False)],
)
def test_norms_alone_tell_whether_a_gradient_is_broken(
    make_samples: MakeSamples, step: dict[str, float], *, nonfinite: bool
) -> None:
    found = run(make_samples(step)).statistics["gradients"]

    assert found["nonfinite"] is nonfinite
    assert found["parameters"] == []


def test_a_step_of_which_nothing_is_known_has_null_gradients(make_samples: MakeSamples) -> None:
    found = run(make_samples())

    assert found.statistics == {
        "encoder": [],
        "decoder": [],
        "gradients": None,
        "gradient_noise_scale": None,
    }
    assert (found.scalars, found.histograms, found.pictures, found.raw) == ((), (), (), ())


def test_the_noise_scale_comes_from_the_ranks(make_samples: MakeSamples) -> None:
    ranks = ({"local_gradient_norm": 3.0, "norm_before_clip": 2.0}, {"local_gradient_norm": 2.0})

    found = run(make_samples(*ranks)).statistics["gradient_noise_scale"]

    # b = 1, B = 2: |G|^2 = (2 * 4 - 6.5) / 1, tr = (6.5 - 4) / (1 - 1/2)
    assert found == pytest.approx(5.0 / 1.5)


def test_without_clipping_the_norm_after_it_will_do(make_samples: MakeSamples) -> None:
    ranks = ({"local_gradient_norm": 3.0, "norm_after_clip": 2.0}, {"local_gradient_norm": 2.0})

    found = run(make_samples(*ranks)).statistics["gradient_noise_scale"]

    assert found == pytest.approx(5.0 / 1.5)


@pytest.mark.parametrize(
    "ranks",
    [
        ({"local_gradient_norm": 3.0, "norm_before_clip": 2.0},),
        ({"local_gradient_norm": 3.0, "norm_before_clip": 2.0}, {}),
        ({"local_gradient_norm": 3.0}, {"local_gradient_norm": 2.0}),
        (
            {"local_gradient_norm": 3.0, "norm_after_clip": 2.0, "clipped": True},
            {"local_gradient_norm": 2.0},
        ),
        (
            {"local_gradient_norm": math.nan, "norm_before_clip": 2.0},
            {"local_gradient_norm": 2.0},
        ),
    ],
    ids=["one rank", "a rank is silent", "no norm of all", "only after clipping", "nan"],
)
def test_the_noise_scale_is_unknown_otherwise(
    make_samples: MakeSamples, ranks: tuple[dict[str, object], ...]
) -> None:
    assert run(make_samples(*ranks)).statistics["gradient_noise_scale"] is None


@pytest.mark.parametrize(
    "clipping",
    [
        {"norm_before_clip": 5.0, "norm_after_clip": 2.0, "max_norm": 9.0, "clipped": False},
        {"norm_before_clip": 5.0, "norm_after_clip": 0.8, "max_norm": 2.0, "clipped": True},
    ],
)
def test_the_noise_scale_is_of_what_the_watched_optimizer_updates(
    make_samples: MakeSamples, clipping: dict[str, object]
) -> None:
    """Two optimizers update a model that is clipped as a whole: its norm is larger than theirs."""
    ranks = ({"local_gradient_norm": 3.0, **clipping}, {"local_gradient_norm": 2.0})

    found = run(make_samples(*ranks)).statistics["gradient_noise_scale"]

    assert found == pytest.approx(5.0 / 1.5)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("h.0.weight", "h.0.bias"), pytest.approx(5.0 / 1.5)), (("h.1.weight", "h.1.bias"), None)],
    ids=["replicas", "stages of a pipeline"],
)
def test_ranks_with_other_parameters_have_no_noise_scale(
    make_samples: MakeSamples,
    gradients: GradientSample,
    names: tuple[str, ...],
    expected: float | None,
) -> None:
    ranks = ({"local_gradient_norm": 3.0, "norm_before_clip": 2.0}, {"local_gradient_norm": 2.0})
    samples = make_samples(*ranks, gradients=gradients)
    first, second = samples.samples
    second = replace(second, gradients=replace(gradients, names=names))

    found = run(replace(samples, samples=(first, second))).statistics

    assert found["gradient_noise_scale"] == expected


def test_a_broken_statistic_costs_its_own_value(
    make_samples: MakeSamples, make_attention: MakeAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = [s for s in module.ATTENTION_STATISTICS if s.name != "entropy"]
    monkeypatch.setattr(module, "ATTENTION_STATISTICS", (Broken(), *sound))

    found = run(make_samples(attention=(make_attention(),)))

    (entry,) = found.statistics["decoder"]
    assert entry["entropy"] is None
    assert entry["sink_mass"] > 0
    assert "attention/decoder_layer0_self_entropy" not in {s.tag for s in found.scalars}
    assert found.failures == {"statistic entropy": "ZeroDivisionError('broken')"}
    assert len(found.pictures) == 1


def test_a_broken_renderer_costs_its_other_pictures(
    make_samples: MakeSamples, make_attention: MakeAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [r for r in module.RENDERERS if r.name != "heatmap"]
    monkeypatch.setattr(module, "RENDERERS", (BrokenRenderer(), *others))

    found = run(make_samples(attention=(make_attention(),)), visualize=("heatmap", "multi_head"))

    names = [picture.file_name for picture in found.pictures]
    assert names == ["first.png", "decoder_layer0_self_attn_heads.png"]
    assert found.failures == {"renderer heatmap": "MemoryError()"}


def test_a_broken_map_costs_its_own_entry(
    make_samples: MakeSamples, make_attention: MakeAttention
) -> None:
    calls = (make_attention(key_heads=(0, 9)), make_attention(layer=1))

    found = run(make_samples(attention=calls))

    assert [entry["layer"] for entry in found.statistics["decoder"]] == [1]
    assert list(found.failures) == ["map of decoder layer 0 self_attention"]


def test_shedding_pictures_keeps_statistics(
    make_samples: MakeSamples, make_attention: MakeAttention
) -> None:
    found = run(make_samples(attention=(make_attention(),)), with_pictures=False)

    assert found.pictures == ()
    assert len(found.statistics["decoder"]) == 1


def test_shedding_statistics_keeps_what_the_trainer_sent(
    make_samples: MakeSamples, make_attention: MakeAttention, gradients: GradientSample
) -> None:
    samples = make_samples(
        {"norm_before_clip": 5.0}, attention=(make_attention(),), gradients=gradients
    )

    found = run(samples, with_pictures=False, with_statistics=False)

    assert found.statistics["decoder"] == []
    assert found.statistics["gradients"]["norm_before_clip"] == 5.0
    assert found.statistics["gradients"]["parameters"] == []
    assert (found.scalars, found.histograms, found.pictures) == ((), (), ())


def test_only_the_words_of_visualize_are_drawn(
    make_samples: MakeSamples, make_attention: MakeAttention, gradients: GradientSample
) -> None:
    samples = make_samples(attention=(make_attention(),), gradients=gradients)

    names = {
        word: [picture.file_name for picture in run(samples, visualize=(word,)).pictures]
        for word in ("statistics", "layer_comparison", "gradient_flow", "unknown")
    }

    assert names == {
        "statistics": [],
        "layer_comparison": ["decoder_layer_comparison.png"],
        "gradient_flow": ["gradient_flow.png"],
        "unknown": [],
    }


def test_tokens_reach_the_pictures(
    make_samples: MakeSamples, make_attention: MakeAttention
) -> None:
    attention = (make_attention(),)

    with_tokens, without = (
        run(make_samples({"tokens": tokens}, attention=attention)).pictures[0].png
        for tokens in (("a", "b", "c", "d"), ())
    )

    assert with_tokens != without


def test_raw_maps_come_where_the_trainer_asked(
    make_samples: MakeSamples, make_attention: MakeAttention
) -> None:
    attention = make_attention()

    found = run(make_samples(attention=(attention,), save_raw=True))

    (raw,) = found.raw
    assert raw.file_name == "decoder_layer0_self_attn.npz"
    assert raw.module == "h.0.attn"
    np.testing.assert_array_equal(raw.weights, reconstruct(attention).weights)
    np.testing.assert_array_equal(raw.query_rows, range(4))
