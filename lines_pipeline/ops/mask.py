"""``mask``: keep a task vector where a mask is set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, Port, Values
from lines_pipeline.ops.kernels import Value


class Mask(Op):
    """Zero where the mask is not set."""

    name = "mask"
    formula = "m * tau"
    source = "Wang et al., arXiv 2405.07813"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA), "mask": Port(EdgeType.MASK)}

    def apply(self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        return inputs["delta"][0] * inputs["mask"][0]
