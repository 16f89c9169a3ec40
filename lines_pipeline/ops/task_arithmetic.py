"""``task-arithmetic``: the weighted sum or mean of task vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, StepContext, Values
from lines_pipeline.ops.kernels import Value, or_one, running_sum
from lines_pipeline.ops.schemas.coefficients import require_rows
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.shares import cancel_out
from lines_pipeline.ops.statistics.tables import Entries, Table


class TaskArithmeticParams(OpParams):
    weights: tuple[float, ...] = Field((1.0,), description="Factor of each task vector: number, list or map by item.")
    reduce: Literal["sum", "mean"] = Field("sum", description="mean divides the weighted sum by the number of vectors.")
    sign: Literal["none", "sum"] = Field(
        "none",
        description="sum leaves out weighted entries of another sign than their sum, which counts as positive at 0.",
    )
    normalize: bool = Field(
        False,
        description="Divide by the sum of the weights; with 'sign: sum' by that of the entries kept; by 1 where 0.",
    )


class TaskArithmetic(Op[TaskArithmeticParams, Table]):
    """Adds task vectors; negative weights forget, and combinations make analogies.

    With ``sign: sum``, or ``normalize: true``, it is mergekit's generalised task arithmetic. ``coefficients`` hold the
    weights of each tensor.
    """

    name = "task-arithmetic"
    version = 2
    formula = "sum_t w_t tau_t   (mean: divided by N; normalize: by sum_t w_t)"
    source = (
        "Ilharco et al., arXiv 2212.04089; wang-kee/LiNeS, src/eval/aggregation.py; arcee-ai/mergekit, "
        "mergekit/merge_methods/generalized_task_arithmetic.py"
    )
    gives = EdgeType.DELTA
    inputs = {
        "deltas": Port(EdgeType.DELTA, many=True),
        "coefficients": Port(EdgeType.COEFFICIENTS, optional=True, statistics_only=True),
    }
    per_item = {"weights": "deltas"}
    Params = TaskArithmeticParams

    def is_sum_of(self, params: TaskArithmeticParams) -> str | None:
        plain = params.reduce == "sum" and params.sign == "none" and not params.normalize
        return "deltas" if plain and set(params.weights) == {1.0} else None

    def check(self, params: TaskArithmeticParams, counts: Mapping[str, int]) -> str | None:
        if counts["coefficients"] and set(params.weights) != {1.0}:
            return "give 'weights' or 'coefficients', not both"
        return "give 'reduce: mean' or 'normalize', not both" if params.normalize and params.reduce == "mean" else None

    def completed(self, params: TaskArithmeticParams, context: StepContext) -> TaskArithmeticParams:
        return params.model_copy(update={"weights": ()}) if "coefficients" in context.labels else params

    def schema(
        self, params: TaskArithmeticParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext
    ) -> Schema:
        merged = super().schema(params, {"deltas": inputs["deltas"]}, context)
        for table in inputs.get("coefficients", ()):
            require_rows(context, table, merged, len(inputs["deltas"]))
        return merged

    def statistics(self, params: TaskArithmeticParams, inputs: Ids, step: str) -> Mapping[str, Entries]:
        return {"coefficients": Entries(inputs["coefficients"])} if "coefficients" in inputs else {}

    def apply(
        self, params: TaskArithmeticParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Table]
    ) -> Value:
        weights = stats["coefficients"][tensor.name] if stats else params.weights
        total = running_sum(inputs["deltas"], weights)
        whole = sum(weights)
        divisor: Value | float = 1.0 if cancel_out(weights) else whole
        if params.sign == "sum":
            total, divisor = _agreeing(inputs["deltas"], weights, total)
        if params.normalize:
            return total / divisor
        return total / len(inputs["deltas"]) if params.reduce == "mean" else total


def _agreeing(deltas: Sequence[Value], weights: Sequence[float], whole: Value) -> tuple[Value, Value]:
    """Sum of the weighted entries whose sign is that of the whole sum, and of their weights, or 1 where that is 0."""
    sign = (whole.sign() * 2.0 + 1.0).sign()
    kept = [(delta * weight * sign).clamp(min=0.0) for delta, weight in zip(deltas, weights, strict=True)]
    taken = running_sum([magnitudes.sign() for magnitudes in kept], weights)
    return running_sum(kept) * sign + 0.0, or_one(taken, weights)
