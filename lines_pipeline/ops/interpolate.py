"""``interpolate``: a weighted combination of whole models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value, running_sum
from lines_pipeline.ops.shares import cancel_out


class InterpolateParams(OpParams):
    weights: tuple[float, ...] = Field((), description="Factor of each model.")
    normalize: bool = Field(False, description="Divide the weights by their sum, in place of using them as given.")
    t: float | None = Field(None, description="For two models: (1 - t) * first + t * second.")


class Interpolate(Op[InterpolateParams]):
    """WiSE-FT, linear mode connectivity and rewarded soups are sweeps of it; ``normalize`` is mergekit's ``linear``."""

    name = "interpolate"
    formula = "sum_i w_i theta_i,  or (1 - t) theta_1 + t theta_2"
    source = "Wortsman et al., arXiv 2109.01903; Rame et al., arXiv 2306.04488"
    gives = EdgeType.WEIGHTS
    inputs = {"models": Port(EdgeType.WEIGHTS, many=True, followed=True)}
    per_item = {"weights": "models"}
    Params = InterpolateParams

    def check(self, params: InterpolateParams, counts: Mapping[str, int]) -> str | None:
        if (params.t is None) == (not params.weights):
            return "needs exactly one of 'weights' and 't'"
        if params.normalize and cancel_out(params.weights):
            return "'normalize' needs 'weights' whose sum is not 0"
        if params.t is not None and counts["models"] != 2:
            return f"'t' is for two models, got {counts['models']}: give 'weights'"
        return None

    def apply(self, params: InterpolateParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        weights = params.weights if params.t is None else (1.0 - params.t, params.t)
        whole = running_sum(inputs["models"], weights)
        return whole / sum(weights) if params.normalize else whole
