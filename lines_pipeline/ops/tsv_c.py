"""``tsv-c``: each task vector by its leading singular triplets alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, Port, StepContext, Values
from lines_pipeline.ops.decompositions import decomposition_bytes, leading_triplets, vectors_bytes
from lines_pipeline.ops.kernels import Block, Value
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.spectral import MatrixParams


class TsvCParams(MatrixParams):
    rank: float | None = Field(
        None, description="Triplets kept, as a fraction of the smaller side R; default 1/N.", gt=0, le=1
    )


class TsvC(Op[TsvCParams]):
    """Keeps int(rank R) singular triplets of every matrix of each task vector, and all other tensors whole.

    Differs from the source where a matrix has fewer directions than it may keep: null directions are left out.
    """

    name = "tsv-c"
    version = 2
    formula = "sum_(i <= rank R) s_i u_i v_i^T  of each  tau_t = U diag(s) V^T   (2-D tensors; others: tau_t)"
    source = "Gargiulo et al., arXiv 2412.00081; AntoAndGar/task_singular_vectors, TSVC_utils.py (compress_tv)"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, each=True)}
    granularity = Granularity.TENSOR
    Params = TsvCParams

    def completed(self, params: TsvCParams, context: StepContext) -> TsvCParams:
        return params if params.rank else params.model_copy(update={"rank": 1 / context.mapped})

    def schema(self, params: TsvCParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return params.named_in(super().schema(params, inputs, context))

    def wants_whole(self, params: TsvCParams, tensor: TensorSpec) -> bool:
        return params.decomposes(tensor)

    def working_bytes(self, params: TsvCParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        matrix = params.as_matrix(tensor)
        return vectors_bytes(matrix) + decomposition_bytes(matrix)

    def apply(self, params: TsvCParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        delta: Block = inputs["deltas"][0]
        if not params.decomposes(tensor):
            untouched: Value = delta
            return untouched
        shape = params.as_matrix(tensor).shape
        kept: Value = leading_triplets(delta.reshape(shape), int(min(shape) * (params.rank or 1))).product().reshape(-1)
        return kept
