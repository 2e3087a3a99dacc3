"""Every statistic and renderer that runs, in the order of its output."""

from tracksided.renderers.animation import Animation
from tracksided.renderers.entropy import EntropyByLayer
from tracksided.renderers.gradient_flow import GradientFlow
from tracksided.renderers.head_map import HeadMap
from tracksided.renderers.heatmap import Heatmap
from tracksided.renderers.layer_comparison import LayerComparison
from tracksided.renderers.multi_head import MultiHead
from tracksided.stages import AttentionStatistic, ParameterStatistic, Renderer, RunRenderer
from tracksided.statistics.effective_rank import EffectiveRank
from tracksided.statistics.entropy import Entropy, EntropyPerHead, NormalizedEntropy
from tracksided.statistics.gradient_cosine import GradientCosine
from tracksided.statistics.gradient_norms import GradientAbsMax, GradientNonfinite, GradientNorm
from tracksided.statistics.gradient_quantiles import GradientQuantiles
from tracksided.statistics.gradient_sample import (
    GradientMean,
    GradientStd,
    GradientZeroFraction,
)
from tracksided.statistics.head_similarity import HeadSimilarity
from tracksided.statistics.max_logit import MaxLogit
from tracksided.statistics.position import DiagonalMass, MeanDistance, PreviousTokenMass
from tracksided.statistics.sink_mass import SinkMass
from tracksided.statistics.weight_update import UpdateRatio, WeightNorm
from tracksided.statistics.weights import MaxWeight, MeanWeight, MinWeight, StdWeight

ATTENTION_STATISTICS: tuple[AttentionStatistic, ...] = (
    MeanWeight(),
    StdWeight(),
    MinWeight(),
    MaxWeight(),
    Entropy(),
    EntropyPerHead(),
    NormalizedEntropy(),
    MaxLogit(),
    SinkMass(),
    DiagonalMass(),
    PreviousTokenMass(),
    MeanDistance(),
    HeadSimilarity(),
    EffectiveRank(),
)

PARAMETER_STATISTICS: tuple[ParameterStatistic, ...] = (
    GradientNorm(),
    GradientMean(),
    GradientStd(),
    GradientAbsMax(),
    GradientZeroFraction(),
    GradientQuantiles(),
    GradientCosine(),
    GradientNonfinite(),
    WeightNorm(),
    UpdateRatio(),
)

RENDERERS: tuple[Renderer, ...] = (
    Heatmap(),
    MultiHead(),
    LayerComparison(),
    GradientFlow(),
    HeadMap(),
)

RUN_RENDERERS: tuple[RunRenderer, ...] = (Animation(), EntropyByLayer())
