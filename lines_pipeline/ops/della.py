"""``della``: drop entries at random, small ones of a row more often than large ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Never

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.base import Granularity, Values
from lines_pipeline.ops.draws import DrawingOp, DrawParams, uniforms
from lines_pipeline.ops.kernels import Block, Value, total
from lines_pipeline.ops.statistics.norms import restoring

STRIP_NUMEL = 2**20
"""Values of a tensor that are ranked at a time; a longer row is ranked whole."""


class DellaParams(DrawParams):
    rescale: Literal["density", "probability", "l1", "none"] = Field(  # type: ignore[assignment]
        "density",
        description="Divide by the density, or by each entry's own probability; restore L1 norms; or leave as is.",
    )
    epsilon: float = Field(0.15, description="How far the probabilities reach from the density, either way.", ge=0)


class Della(DrawingOp[DellaParams]):
    """Keeps entries with probabilities from p - epsilon to p + epsilon, by the rank of their magnitude in their row.

    A row goes along the second axis, of a convolution too; a vector is one row. ``rescale: probability`` is the
    paper's, ``l1`` mergekit's.
    An entry alone in its row, or a scalar, is kept with probability p, where mergekit fails. Of equal magnitudes the
    earlier has the lower rank.
    """

    name = "della"
    formula = "tau_i with probability p - epsilon + 2 epsilon (rank_i - 1) / (n - 1), rescaled; else 0"
    source = "Deep et al., arXiv 2406.11617; arcee-ai/mergekit, mergekit/sparsify.py (della_magprune)"
    granularity = Granularity.TENSOR
    Params = DellaParams

    def check(self, params: DellaParams, counts: Mapping[str, int]) -> str | None:
        for density in params.density:
            if 0.0 < density < 1.0 and not 0.0 < density - params.epsilon <= density + params.epsilon < 1.0:
                return f"'density' {density} plus or minus 'epsilon' {params.epsilon} has to lie within 0 and 1"
        return None

    def wants_whole(self, params: DellaParams, tensor: TensorSpec) -> bool:
        return tensor.numel > 0 and 0.0 < params.density[0] < 1.0

    def working_bytes(self, params: DellaParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 8 * tensor.numel * (1 + counts["uniforms"]) + 64 * max(STRIP_NUMEL, _outer_numel(tensor))

    def apply(self, params: DellaParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        delta: Block = inputs["delta"][0]
        density = params.density[0]
        if not self.wants_whole(params, tensor):
            untouched: Value = delta if density else delta * 0.0
            return untouched
        sources: Sequence[Block] = tuple(inputs["uniforms"])
        result: Block = torch.empty_like(delta)
        before, after = [], []
        for part in _strips(tensor):
            values = delta[part]
            probabilities = _probabilities(values, tensor, density, params.epsilon)
            numbers = uniforms(params, [source[part] for source in sources], tensor, part.start, values)
            kept = torch.where(numbers < probabilities, values, torch.zeros_like(values))
            before.append(total(values.abs()))
            after.append(total(kept.abs()))
            result[part] = kept / probabilities if params.rescale == "probability" else kept
        if params.rescale == "density":
            result /= density
        elif params.rescale == "l1":
            result *= restoring((math.fsum(before), math.fsum(after)))
        rescaled: Value = result
        return rescaled


def _strips(tensor: TensorSpec) -> Iterator[slice]:
    """Yield whole rows of a tensor, in slices of its flat values."""
    outer = _outer_numel(tensor)
    step = max(STRIP_NUMEL // outer, 1) * outer
    return (slice(start, min(start + step, tensor.numel)) for start in range(0, tensor.numel, step))


def _probabilities(values: torch.Tensor, tensor: TensorSpec, density: float, epsilon: float) -> torch.Tensor:
    """Return the probability of keeping each entry of some rows."""
    row = tensor.shape[1] if len(tensor.shape) > 1 else tensor.numel
    if row == 1:
        return torch.full_like(values, density)
    rows = values.abs().reshape(-1, row, _outer_numel(tensor) // row)
    order = rows.argsort(dim=1, stable=True)
    steps = torch.arange(row, dtype=values.dtype, device=values.device) / (row - 1)
    ranks = torch.empty_like(rows).scatter_(1, order, steps.reshape(1, row, 1).expand(order.shape))
    return (density - epsilon + ranks * (2.0 * epsilon)).reshape(-1)


def _outer_numel(tensor: TensorSpec) -> int:
    """Return the number of values of the smallest slice that has only whole rows."""
    return tensor.numel // tensor.shape[0] if len(tensor.shape) > 1 else tensor.numel
