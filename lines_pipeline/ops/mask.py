"""``mask``: keep a task vector where a mask is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Never

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.schemas.union import union


class Mask(Op[OpParams]):
    """Zero where the mask is not set."""

    name = "mask"
    formula = "m * tau"
    source = "Wang et al., arXiv 2405.07813"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA, followed=True), "mask": Port(EdgeType.MASK)}

    def schema(self, params: OpParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return union(context, inputs["delta"], within=inputs["mask"][0])

    def apply(self, params: OpParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        return inputs["delta"][0] * inputs["mask"][0]
