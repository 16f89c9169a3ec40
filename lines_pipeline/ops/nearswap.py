"""``nearswap``: take another model's values where they are near the base's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value, at_most

NEAREST = 1e-6
"""Smaller distances count as this one."""


class NearswapParams(OpParams):
    t: float = Field(description="Distance up to which the other model's value is taken, in units of weights.", ge=0)


class Nearswap(Op[NearswapParams]):
    """Takes the other model's value within a distance of ``t``, and less of it the further off it is."""

    name = "nearswap"
    formula = "theta_0 + w (theta - theta_0),  w = clip(t / max(|theta - theta_0|, 1e-6), 0, 1)"
    source = "arcee-ai/mergekit, mergekit/merge_methods/nearswap.py"
    gives = EdgeType.WEIGHTS
    inputs = {"base": Port(EdgeType.WEIGHTS, followed=True), "models": Port(EdgeType.WEIGHTS, many=True)}
    Params = NearswapParams

    def check(self, params: NearswapParams, counts: Mapping[str, int]) -> str | None:
        return None if counts["models"] == 1 else f"'models' takes one model besides the base, got {counts['models']}"

    def apply(self, params: NearswapParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        base, model = inputs["base"][0], inputs["models"][0]
        distance = (base - model).abs().clamp(min=NEAREST)
        share = at_most((distance * 0.0 + params.t) / distance, 1.0)
        return model * share + base * (share * -1.0 + 1.0)
