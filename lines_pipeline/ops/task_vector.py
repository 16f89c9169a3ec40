"""``task-vector``: what fine-tuning changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.schemas.difference import OnMissing, OnShapeMismatch, difference
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


class TaskVectorParams(OpParams):
    on_missing: OnMissing = Field(
        "error", description="What to do about tensors that the model lacks: base leaves them out, so that base's stay."
    )
    on_shape_mismatch: OnShapeMismatch = Field(
        "error",
        description="What to do about tensors of other shapes: base leaves them out, crop takes the leading region "
        "that both have.",
    )


class TaskVector(Op[TaskVectorParams]):
    """Fine-tuned minus pretrained weights, over the floating-point tensors; the rest is never subtracted. What ``crop``
    takes counts as a part of the tensor: the rest is zero and in no threshold or norm."""

    name = "task-vector"
    formula = "tau = theta - theta_0"
    source = "Ilharco et al., arXiv 2212.04089; mlfoundations/task_vectors, src/task_vectors.py"
    gives = EdgeType.DELTA
    inputs = {"model": Port(EdgeType.WEIGHTS), "base": Port(EdgeType.WEIGHTS, followed=True)}
    Params = TaskVectorParams

    def schema(
        self, params: TaskVectorParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext
    ) -> Schema:
        return difference(
            context,
            inputs["base"][0],
            inputs["model"][0],
            on_missing=params.on_missing,
            on_shape_mismatch=params.on_shape_mismatch,
        )

    def apply(self, params: TaskVectorParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        return inputs["model"][0] - inputs["base"][0]
