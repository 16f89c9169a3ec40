"""``apply``: add a task vector to the pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value


class ApplyParams(OpParams):
    scale: float = Field(1.0, description="Factor of the task vector.")


class Apply(Op[ApplyParams]):
    """Integer and bool tensors, and tensors the task vector lacks, keep the base's bytes."""

    name = "apply"
    formula = "theta_0 + scale * tau"
    source = "Ilharco et al., arXiv 2212.04089; mlfoundations/task_vectors, src/task_vectors.py (apply_to)"
    gives = EdgeType.WEIGHTS
    inputs = {"base": Port(EdgeType.WEIGHTS, followed=True), "delta": Port(EdgeType.DELTA)}
    Params = ApplyParams

    def apply(self, params: ApplyParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        base, delta = inputs["base"][0], inputs["delta"][0]
        return base + (delta if params.scale == 1.0 else delta * params.scale)
