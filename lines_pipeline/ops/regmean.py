"""``regmean``: the weights whose answers are nearest to those of each model on its own inputs, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Never

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Beside, Granularity, Op, OpParams, Port, Values
from lines_pipeline.ops.decompositions import FACTOR_BYTES, matrix_bytes, strip_bytes
from lines_pipeline.ops.kernels import Block, Value, running_sum
from lines_pipeline.ops.regression import Regression
from lines_pipeline.ops.schemas.beside import find_beside
from lines_pipeline.ops.schemas.like_base import like_base
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.shares import wrong_shares


class RegmeanParams(OpParams):
    weights: tuple[float, ...] = Field((1.0,), description="Factor of each model: number, list or map by item.")
    reduce_non_diagonal: float = Field(
        0.9, description="Factor of what lies off the diagonal of each Gram matrix; 0: the diagonal alone.", ge=0, le=1
    )
    ridge: float = Field(
        1e-6,
        description="Pull towards the mean of the models, as a fraction of the mean of G's diagonal; 0 allowed.",
        ge=0,
    )


class Regmean(Op[RegmeanParams]):
    """Minimises ``sum_t w_t |X_t (W - W_t)^T|^2`` of each layer that the statistics have Gram matrices of.

    Differs from the source in what no inputs tell: such directions take the mean of the models, where that inverts a
    singular matrix. A weight [in, out] (Conv1D of GPT-2) is taken as its transpose. Sums and solution are in float64.
    """

    name = "regmean"
    formula = (
        "(sum_t w_t W_t G_t) (sum_t w_t G_t)^-1,  G_t with its off-diagonal times reduce_non_diagonal   (others: mean)"
    )
    source = "Jin et al., arXiv 2212.09849; bloomberg/dataless-model-merging, avg_merger.py (regmean_mean_params)"
    gives = EdgeType.WEIGHTS
    inputs = {
        "models": Port(EdgeType.WEIGHTS, many=True, followed=True),
        "statistics": Port(EdgeType.STATISTICS, many=True, beside=True),
    }
    per_item = {"weights": "models"}
    granularity = Granularity.TENSOR
    Params = RegmeanParams

    def check(self, params: RegmeanParams, counts: Mapping[str, int]) -> str | None:
        if counts["models"] != counts["statistics"]:
            return f"needs one of 'statistics' a model, got {counts['statistics']} for {counts['models']}"
        return wrong_shares(params.weights)

    def schema(self, params: RegmeanParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        first, *later = inputs["models"]
        merged = like_base(context, first, models=later)
        kept = merged.numels.keys() - merged.copied.keys()
        beside = find_beside(context, merged, kept, inputs["statistics"], square=True)
        regressed = {tensor for named in beside.values() for tensor in named}
        return replace(merged, beside=beside, streamed=frozenset(merged.tensors) - regressed)

    def wants_whole(self, params: RegmeanParams, tensor: TensorSpec) -> bool:
        return len(tensor.shape) == 2

    def working_bytes(self, params: RegmeanParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 6 * 8 * tensor.numel + 2 * strip_bytes(tensor) + matrix_bytes(tensor)

    def beside_bytes(self, params: RegmeanParams, tensor: TensorSpec, beside: TensorSpec) -> int:
        return (4 * 8 + FACTOR_BYTES) * beside.numel

    def apply(self, params: RegmeanParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        models, grams = inputs["models"], inputs["statistics"]
        if not len(grams):
            return _mean(models, params.weights)
        return _regressed(params, models, grams, tensor).reshape(-1)


def _mean(models: Sequence[Value], weights: Sequence[float]) -> Value:
    total = running_sum([model * weight for model, weight in zip(models, weights, strict=True)])
    return total / sum(weights)


def _regressed(
    params: RegmeanParams, models: Sequence[Block], grams: Sequence[Block], tensor: TensorSpec
) -> torch.Tensor:
    regression = Regression(tensor, params.reduce_non_diagonal, params.ridge)
    for number, weight in enumerate(params.weights):
        gram: Beside = grams[number]
        regression.add(models[number].reshape(tensor.shape), gram, weight)
        del gram
    return regression.solution()
