"""``scale``: multiply a task vector by a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value


class ScaleParams(OpParams):
    by: float = Field(description="The factor; negative to forget.")


class Scale(Op[ScaleParams]):
    """Uniform scaling: the control against which LiNeS is compared."""

    name = "scale"
    formula = "by * tau"
    source = "Ilharco et al., arXiv 2212.04089"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA)}
    Params = ScaleParams

    def apply(self, params: ScaleParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        return inputs["delta"][0] * params.by
