"""``svc``: a merged update with the singular values lowered that several tasks have added up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Never

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, Port, Values
from lines_pipeline.ops.decompositions import (
    Triplets,
    decomposition_bytes,
    leading_triplets,
    strip_bytes,
    strips,
    vectors_bytes,
)
from lines_pipeline.ops.kernels import Value, whole
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.spectral import Matrices, MatrixParams


class SvcParams(MatrixParams):
    alpha: float = Field(1.0, description="The least that a task's share of a direction counts.", gt=0)


class Svc(Op[SvcParams]):
    """Divides each singular value of a merged update by the mean, over tasks, of how often it holds the task's own
    response in that direction, each counted ``alpha`` at least. ``delta`` has its coefficient in it already.

    Differs from the source where a task has no response in a direction, up to what rounding to float32 leaves unknown:
    it counts as ``alpha``. The source divides by the square of that response, or by 1e-12.
    """

    name = "svc"
    version = 2
    formula = (
        "s_r N / sum_t max(alpha, <u_r^T M, u_r^T tau_t> / |u_r^T tau_t|^2)  of  M = U diag(s) V^T   (2-D tensors)"
    )
    source = "arXiv 2602.05536; tanganke/fusion_bench, method/singular_value_calibration/utils.py"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA), "deltas": Port(EdgeType.DELTA, many=True)}
    granularity = Granularity.TENSOR
    Params = SvcParams

    def schema(self, params: SvcParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return params.named_in(super().schema(params, inputs, context))

    def wants_whole(self, params: SvcParams, tensor: TensorSpec) -> bool:
        return params.decomposes(tensor)

    def working_bytes(self, params: SvcParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        tensor = params.as_matrix(tensor)
        responses = 8 * min(tensor.shape) * tensor.shape[0] + 4 * strip_bytes(tensor)
        return vectors_bytes(tensor) + decomposition_bytes(tensor) + responses

    def apply(self, params: SvcParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        if not params.decomposes(tensor):
            return inputs["delta"][0]
        tensor = params.as_matrix(tensor)
        merged = leading_triplets(whole(inputs["delta"][0], tensor), min(tensor.shape))
        matrices, total = Matrices(inputs["deltas"], tensor.shape), torch.zeros_like(merged.values)
        for task in range(len(matrices)):
            total += _shares(merged, matrices[task]).clamp_(min=params.alpha)
        return Triplets(merged.left, merged.values * (len(matrices) / total), merged.right).product().reshape(-1)


def _shares(merged: Triplets, matrix: torch.Tensor) -> torch.Tensor:
    """Return, by direction r, how often the merged response holds the task's: 0 where the task has none."""
    left = merged.left.double()
    inner, squares = torch.zeros_like(merged.values), torch.zeros_like(merged.values)
    for columns, right in zip(strips(matrix.T, len(left)), strips(merged.right, len(left)), strict=True):
        responses = columns.double() @ left
        inner += (responses * right).sum(0)
        squares += responses.square_().sum(0)
    unknown = squares.sum() * (len(squares) * torch.finfo(torch.float32).eps) ** 2
    return torch.where(squares > unknown, inner * merged.values / squares, 0.0)
