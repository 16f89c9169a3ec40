"""``task-arithmetic``: the weighted sum or mean of task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value, running_sum


class TaskArithmeticParams(OpParams):
    weights: tuple[float, ...] = Field((1.0,), description="Factor of each task vector: number, list or map by item.")
    reduce: Literal["sum", "mean"] = Field("sum", description="mean divides the weighted sum by the number of vectors.")


class TaskArithmetic(Op[TaskArithmeticParams]):
    """Adds task vectors; negative weights forget, and combinations make analogies."""

    name = "task-arithmetic"
    formula = "sum_t w_t tau_t   (mean: divided by N)"
    source = "Ilharco et al., arXiv 2212.04089; wang-kee/LiNeS, src/eval/aggregation.py"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    per_item = {"weights": "deltas"}
    Params = TaskArithmeticParams

    def is_sum_of(self, params: TaskArithmeticParams) -> str | None:
        return "deltas" if params.reduce == "sum" and set(params.weights) == {1.0} else None

    def apply(
        self, params: TaskArithmeticParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]
    ) -> Value:
        total = running_sum(inputs["deltas"], params.weights)
        return total / len(inputs["deltas"]) if params.reduce == "mean" else total
