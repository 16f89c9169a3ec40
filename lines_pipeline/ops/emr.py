"""``emr``: one unified update, and for each task a mask and a scale of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Place, Port, Statistic, Summary, Values
from lines_pipeline.ops.kernels import Value, larger, running_sum, total
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions


class EmrParams(OpParams):
    rescale: Literal["tensor-mean", "entries"] = Field(
        "tensor-mean", description="Compare sums of the tensors' mean magnitudes, as the code, or of all entries'."
    )


def unified(deltas: Sequence[Value]) -> tuple[Value, list[Value], Value]:
    """Return the largest magnitude with the elected sign, each task vector's agreeing magnitudes, and the sign."""
    sign = (running_sum(deltas).sign() * 2.0 + -1.0).sign()
    agreeing = [(delta * sign).clamp(min=0.0) for delta in deltas]
    largest = agreeing[0]
    for magnitudes in agreeing[1:]:
        largest = larger(largest, magnitudes)
    return largest, agreeing, sign


@dataclass(frozen=True)
class Rescalers(Statistic[list[float], list[float]]):
    """Measures each mean magnitude over that of the masked unified update, for each of ``of``; 1 where none is."""

    rescale: str

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        largest, agreeing, _ = unified(values)
        own = [total(value.abs()) for value in values]
        return (*own, *(total(largest * magnitudes.sign()) for magnitudes in agreeing))

    def partial(self, *reduced: Reduced) -> list[float]:
        return list(reduced)

    def combine(self, partials: Mapping[str, list[list[float]]], numels: Mapping[str, int], state: None) -> list[float]:
        columns: list[list[float]] = [[] for _ in range(2 * len(self.of))]
        for name in sorted(partials):
            size = numels[name] if self.rescale == "tensor-mean" else 1
            for column, sums in zip(columns, zip(*partials[name], strict=True), strict=True):
                column.append(math.fsum(sums) / size)
        own, masked = ([math.fsum(column) for column in half] for half in _halves(columns))
        return [
            own_sum / masked_sum if own_sum and masked_sum else 1.0
            for own_sum, masked_sum in zip(own, masked, strict=True)
        ]


def _halves(columns: list[list[float]]) -> tuple[list[list[float]], list[list[float]]]:
    return columns[: len(columns) // 2], columns[len(columns) // 2 :]


Rescaling = list[float] | float
"""The rescalers of all task vectors, or that of the step's own."""


class Emr(Op[EmrParams, Rescaling]):
    """Elects a sign for each entry and keeps the largest magnitude that has it; a task takes what has its own sign.

    A sum of 0 elects the negative sign. A task vector of zeros stays zero, where the source divides 0 by 0.
    """

    name = "emr"
    formula = (
        "r_t [tau_t s > 0] s max_j (tau_j s)_+,  s = 1 if sum_j tau_j > 0 else -1,  "
        "r_t = sum of mean |tau_t| / sum of mean |masked|, over tensors"
    )
    source = "Huang et al., arXiv 2405.17461; harveyhuang18/EMR_Merging, merge_vit/src/main_emr_merging.py (emr_merge)"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, each=True, with_all=True)}
    Params = EmrParams

    def statistics(self, params: EmrParams, inputs: Ids, step: str) -> dict[str, Rescalers]:
        own, *every = inputs["deltas"]
        return {str(every.index(own)): Rescalers(tuple(every), params.rescale)}

    def bind_tensor(
        self, params: EmrParams, stats: Mapping[str, Rescaling], place: Place | None, counts: Mapping[str, int]
    ) -> Mapping[str, Rescaling]:
        return {"rescaler": _rescaler(stats)} if stats else {}

    def apply(self, params: EmrParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Rescaling]) -> Value:
        own, *every = inputs["deltas"]
        largest, _, sign = unified(every)
        mask = (own * sign).clamp(min=0.0).sign()
        rescaler = stats["rescaler"]
        assert isinstance(rescaler, float)
        return largest * mask * sign * rescaler + 0.0  # zeros without a sign

    def summary(
        self, params: EmrParams, stats: Mapping[str, Rescaling], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        return {"rescalers": [_rescaler(stats)]}


def _rescaler(stats: Mapping[str, Rescaling]) -> float:
    """Return the rescaler of a step's own task vector: the only statistic, by its number among all."""
    ((number, rescalers),) = stats.items()
    assert isinstance(rescalers, list)
    return float(rescalers[int(number)])
