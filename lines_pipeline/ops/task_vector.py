"""``task-vector``: what fine-tuning changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, Port, Values
from lines_pipeline.ops.blocks import Value


class TaskVector(Op):
    """Fine-tuned minus pretrained weights, over the floating-point tensors; the rest is never subtracted."""

    name = "task-vector"
    formula = "tau = theta - theta_0"
    source = "Ilharco et al., arXiv 2212.04089; mlfoundations/task_vectors, src/task_vectors.py"
    gives = EdgeType.DELTA
    inputs = {"model": Port(EdgeType.WEIGHTS), "base": Port(EdgeType.WEIGHTS)}

    def apply(self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        return inputs["model"][0] - inputs["base"][0]
