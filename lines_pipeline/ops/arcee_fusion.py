"""``arcee-fusion``: take another model's values where they matter most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Block, Value

SMALLEST_PROBABILITY = 1e-8
"""Added to every probability."""


class ArceeFusion(Op[OpParams]):
    """Takes whole changes of an importance from the median plus one and a half interquartile ranges on.

    The importance of an entry is the size of its change times the divergence of its row's softmax (last axis; a vector
    is one row) from that of the base.
    """

    name = "arcee-fusion"
    version = 2
    formula = "theta_0 + (theta - theta_0) [s >= median(s) + 1.5 (q3(s) - q1(s))],  s = |theta - theta_0| KL(row)"
    source = "arcee-ai/mergekit, mergekit/merge_methods/arcee_fusion.py"
    gives = EdgeType.WEIGHTS
    inputs = {"base": Port(EdgeType.WEIGHTS, followed=True), "models": Port(EdgeType.WEIGHTS, many=True)}
    granularity = Granularity.TENSOR
    Params = OpParams

    def check(self, params: OpParams, counts: Mapping[str, int]) -> str | None:
        return None if counts["models"] == 1 else f"'models' takes one model besides the base, got {counts['models']}"

    def wants_whole(self, params: OpParams, tensor: TensorSpec) -> bool:
        return tensor.numel > 0

    def working_bytes(self, params: OpParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 8 * 8 * tensor.numel

    def apply(self, params: OpParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        base: Block = inputs["base"][0]
        model: Block = inputs["models"][0]
        change = model - base
        importance = _importance(change, base, model, tensor.shape[-1] if tensor.shape else 1)
        fused: Value = base + change * (importance >= _threshold(importance))
        return fused


def _importance(change: torch.Tensor, base: torch.Tensor, model: torch.Tensor, row: int) -> torch.Tensor:
    ours, theirs = (
        value.reshape(-1, row).softmax(dim=-1, dtype=torch.float64) + SMALLEST_PROBABILITY for value in (model, base)
    )
    divergence = (ours * (ours / theirs).log()).sum(dim=-1, keepdim=True)
    return (change.abs().reshape(-1, row) * divergence).reshape(-1)


def _threshold(importance: torch.Tensor) -> torch.Tensor:
    """Return the median plus 1.5 interquartile ranges, with quantiles by truncated index."""
    ordered, last = importance.sort().values, importance.numel() - 1
    first, median, third = (ordered[int(share * last)] for share in (0.25, 0.5, 0.75))
    return median + 1.5 * (third - first)
