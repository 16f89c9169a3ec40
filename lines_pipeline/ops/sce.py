"""``sce``: select entries by their variance, weigh task vectors by their size, erase the minority's signs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import AnyStatistic, Ids, Op, OpParams, Port, Statistic, Values
from lines_pipeline.ops.kernels import Value, running_sum, total
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions
from lines_pipeline.ops.statistics.digits import NOTHING, SelectedValue
from lines_pipeline.ops.statistics.norms import tensor_totals

SMALLEST_SUM = 1e-6
"""Sums of mean squares below this give equal weights; sums of weights are at least this where they divide."""


class SceParams(OpParams):
    density: float = Field(
        1.0, description="Share to keep of the entries whose variance is not 0, tensor by tensor.", gt=0, le=1
    )


def variance(deltas: Sequence[Value]) -> Value:
    """Return the population variance of each entry over the task vectors: 0, not rounding, where all are equal."""
    offsets = [delta - deltas[0] for delta in deltas]
    mean = running_sum(offsets) / len(deltas)
    differences = [offset - mean for offset in offsets]
    return running_sum([difference * difference for difference in differences]) / len(deltas)


def selected(deltas: Sequence[Value], cut: float | None) -> list[Value]:
    """Return the task vectors where their variance reaches ``cut``; all of them where that is None."""
    if cut is None:
        return list(deltas)
    if cut == NOTHING:
        return [delta * 0.0 for delta in deltas]
    mask = variance(deltas) >= cut
    return [delta * mask for delta in deltas]


@dataclass(frozen=True)
class VarianceCut(SelectedValue):
    """Finds, by tensor, the smallest variance that is kept."""

    density: float
    descending = True
    version = 2

    def derived(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs) -> Value:
        return variance(values)

    def goal(self, count: int, marked: int, weight: float) -> float:
        return int(self.density * marked)


Squares = Mapping[str, list[float]]
"""By tensor name: the mean square of each task vector."""


@dataclass(frozen=True)
class SelectedSquares(Statistic[list[float], Squares]):
    """Sums the squares of each task vector by tensor, where ``needs`` (a cut, if one is there) keeps it."""

    version = 2

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        kept = selected(values, needs[0][tensor.name] if needs else None)
        return tuple(total(delta * delta) for delta in kept)

    def partial(self, *reduced: Reduced) -> list[float]:
        return list(reduced)

    def combine(self, partials: Mapping[str, list[list[float]]], numels: Mapping[str, int], state: None) -> Squares:
        sums = tensor_totals(partials)
        return {name: [square / numels[name] for square in squares] for name, squares in sums.items()}


class Sce(Op[SceParams, Any]):
    """Averages entries that have the sign of their plain sum, with weights by the mean squares of the tensor.

    A sum of 0 counts as positive. Of equal variances at the cut all are kept, of which the source keeps some.
    """

    name = "sce"
    version = 2
    formula = "sum_t w_t tau_t m_t / max(sum_t w_t m_t, 1e-6),  w_t = mean(tau_t^2) / sum,  m_t: sign of sum_j tau_j"
    source = "Wan et al., arXiv 2408.07990; arcee-ai/mergekit, mergekit/merge_methods/sce.py"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    Params = SceParams

    def statistics(self, params: SceParams, inputs: Ids, step: str) -> dict[str, AnyStatistic]:
        deltas = inputs["deltas"]
        if params.density == 1.0:
            return {"squares": SelectedSquares(deltas)}
        cut = VarianceCut(deltas, "tensor", params.density)
        return {"cut": cut, "squares": SelectedSquares(deltas, needs=(cut,))}

    def apply(self, params: SceParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        deltas = selected(inputs["deltas"], stats["cut"][tensor.name] if "cut" in stats else None)
        weights = _weights(stats["squares"][tensor.name])
        sign = (running_sum(deltas).sign() * 2.0 + 1.0).sign()
        agreeing = [(delta * sign).clamp(min=0.0) for delta in deltas]
        taken = running_sum([magnitudes.sign() for magnitudes in agreeing], weights)
        return running_sum(agreeing, weights) * sign / taken.clamp(min=SMALLEST_SUM) + 0.0  # zeros without a sign


def _weights(squares: Sequence[float]) -> list[float]:
    whole = math.fsum(squares)
    return [1.0 / len(squares)] * len(squares) if whole < SMALLEST_SUM else [square / whole for square in squares]
