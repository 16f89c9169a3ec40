"""``larv``: scale the update of each block by how rich it is beside the base, and how far it is at odds with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import AnyStatistic, Ids, Op, OpParams, Port, Values
from lines_pipeline.ops.depth import LAYER_MAP, LayerPatterns, Place, explain_blocks, pattern_diagnostics, place_of
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.statistics.beside_base import BesideBase, EffectiveRanks, Figures

Block = tuple[int, int]
"""A tower and a block in it, both from 0."""
NO_RANK = 1e-8
"""Added to the effective rank of an update, which divides."""


class _MatrixFigures(NamedTuple):
    """Holds the richness and the conflict of one matrix of an update."""

    richness: float
    conflict: float


class LarvParams(OpParams):
    form: Literal["continuous", "tiers"] = Field(
        "continuous", description="continuous: 1 + 0.5 tanh(3 (score - 1)); tiers: fixed scales by rank of the score."
    )
    eta: float = Field(1.0, description="Exponent of the richness.", ge=0, le=10)
    rho: float = Field(0.5, description="Exponent of the depth, (l + 1) / L.", ge=0, le=10)
    tiers: Annotated[tuple[float, ...], Field(strict=False, min_length=2)] = Field(
        (0.75, 1.0, 1.25), description="Scales of equal shares of the blocks, from the lowest scores up."
    )
    blocks: LayerPatterns = Field("auto", description=LAYER_MAP)


class Larv(Op[LarvParams, Any]):
    """Scales each task vector before a merge, data-free. Experimental: the authors' code was not found, and there is no
    case to compare with.

    Ours are: a block's figures are the means over its matrices, all of its tensors get its scale, z is taken tower by
    tower, blocks without an update keep scale 1 as does what is in none, and the values of ``tiers``.
    """

    name = "larv"
    formula = (
        "s_l tau,  s_l = 1 + 0.5 tanh(3 (q_l - 1)),  q_l = e_l^eta ((l + 1) / L)^rho / (1 + softplus(z_l)),  "
        "e_l = r(theta_0) / r(tau),  r = exp(entropy(s^2 / sum s^2)),  z_l: standardised  "
        "(|A D^T - D A^T| + |A^T D - D^T A|) / (2 |A| |D|)  of matrices A of theta_0, D of tau"
    )
    source = "arXiv 2602.09413, after its equations; experimental"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA, followed=True), "base": Port(EdgeType.WEIGHTS, statistics_only=True)}
    Params = LarvParams

    def diagnostics(self, params: LarvParams, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        return pattern_diagnostics(params.blocks, "blocks")

    def schema(self, params: LarvParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return super().schema(params, {"delta": inputs["delta"]}, context)

    def statistics(self, params: LarvParams, inputs: Ids, step: str) -> Mapping[str, AnyStatistic]:
        base, delta = inputs["base"], inputs["delta"]
        return {"ranks": EffectiveRanks(base), "figures": BesideBase((*base, *delta))}

    def layer_pattern(self, params: LarvParams) -> str | tuple[str, ...]:
        return params.blocks

    def bind_model(
        self, params: LarvParams, stats: Mapping[str, Any], places: Mapping[str, Place]
    ) -> Mapping[str, Any]:
        return {"scales": _scales(params, _figures_by_matrix(stats), places)}

    def bind_tensor(
        self, params: LarvParams, stats: Mapping[str, Any], place: Place | None, counts: Mapping[str, int]
    ) -> dict[str, float]:
        return {"scale": 1.0 if place is None else _scale_at(stats["scales"], place)}

    def apply(self, params: LarvParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, float]) -> Value:
        return inputs["delta"][0] * stats["scale"]

    def explain(self, params: LarvParams, value: PlannedValue, stats: Mapping[str, Any] | None) -> OpExplanation | None:
        layers = value.layers
        assert layers is not None
        if stats is None:
            return explain_blocks(layers, "1", lambda place: "by its matrices and the base's", None)
        places = {name: place_of(layers, block) for name, block in layers.blocks.items()}
        scales = _scales(params, _figures_by_matrix(stats), places)
        return explain_blocks(
            layers, "1", lambda place: f"{_scale_at(scales, place):.6g}", lambda place: _scale_at(scales, place)
        )


def _figures_by_matrix(stats: Mapping[str, Any]) -> dict[str, _MatrixFigures]:
    """Return the figures of each matrix that base and update both have."""
    ranks: Mapping[str, float] = stats["ranks"]
    figures: Mapping[str, Figures] = stats["figures"]
    return {
        name: _MatrixFigures(ranks[name] / (own.rank + NO_RANK), own.conflict)
        for name, own in figures.items()
        if name in ranks
    }


def _scale_at(scales: Mapping[Block, float], place: Place) -> float:
    """Return the scale of a block: 1 where it has no matrix that changes."""
    return scales.get((place.tower, place.block), 1.0)


def _scales(
    params: LarvParams, figures: Mapping[str, _MatrixFigures], places: Mapping[str, Place]
) -> dict[Block, float]:
    """Return the scale of each block that has figures, tower by tower."""
    scales: dict[Block, float] = {}
    for tower in sorted({places[name].tower for name in figures if name in places}):
        matrices: dict[Place, list[_MatrixFigures]] = {}
        for name in sorted(figures):
            if name in places and places[name].tower == tower:
                matrices.setdefault(places[name], []).append(figures[name])
        scores = _scores(params, matrices)
        for place, scale in _scaled(params, scores).items():
            scales[place.tower, place.block] = scale
    return scales


def _scores(params: LarvParams, matrices: Mapping[Place, Sequence[_MatrixFigures]]) -> dict[Place, float]:
    """Return the score of each block of a tower, from the figures of its matrices."""
    conflicts = {place: fmean(each.conflict for each in own) for place, own in matrices.items()}
    mean, deviation = fmean(conflicts.values()), pstdev(conflicts.values())
    scores = {}
    for place, own in matrices.items():
        richness = fmean(each.richness for each in own)
        standing = (conflicts[place] - mean) / deviation if deviation else 0.0
        depth = (place.block + 1) / place.depth
        scores[place] = richness**params.eta * depth**params.rho / (1.0 + _softplus(standing))
    return scores


def _scaled(params: LarvParams, scores: Mapping[Place, float]) -> dict[Place, float]:
    """Return scales of scores; of equal scores, equal ones."""
    if params.form == "continuous":
        return {place: 1.0 + 0.5 * math.tanh(3.0 * (score - 1.0)) for place, score in scores.items()}
    ranks = {place: sum(other < score for other in scores.values()) for place, score in scores.items()}
    return {place: params.tiers[rank * len(params.tiers) // len(scores)] for place, rank in ranks.items()}


def _softplus(number: float) -> float:
    return max(number, 0.0) + math.log1p(math.exp(-abs(number)))
