"""``pcb``: weigh every entry by how large it is in its task vector, and by how it agrees with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import AnyStatistic, Ids, Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Block, Value, running_sum
from lines_pipeline.ops.statistics.contract import Needs
from lines_pipeline.ops.statistics.digits import SelectedValue
from lines_pipeline.ops.statistics.thresholds import Thresholds, TrimThreshold

TAIL = 1e-4
"""Share of the smallest, and of the largest, magnitudes that are clamped."""
SMALLEST_SUM = 1e-12
"""Sums of balances are at least this where they divide."""


class PcbParams(OpParams):
    density: float = Field(0.1, description="Share of entries whose balance counts.", gt=0, le=1)


@dataclass(frozen=True)
class MagnitudeBound(TrimThreshold):
    """The magnitude at which those of a task vector are clamped: below it (``low``) or above it (``high``)."""

    side: Literal["low", "high"] = "low"

    @property
    def sampled(self) -> bool:
        return True

    def _rank(self, names: Sequence[str], numels: Mapping[str, int]) -> tuple[int, int]:
        total = sum(numels[name] for name in names)
        index = int(total * TAIL) if self.side == "low" else int(total * (1.0 - TAIL) - 1)
        return max(index, 0) + 1, total


@dataclass(frozen=True)
class BalanceRank(SelectedValue):
    """The balance of the first of ``of`` at the share of ``density`` from the top, or the largest balance (``top``).

    The others are all task vectors; ``needs`` holds the bounds of the first one's magnitudes.
    """

    density: float
    end: Literal["cut", "top"] = "cut"

    def derived(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs) -> Block:
        own, *every = values
        return _balance(own, running_sum(every), _bounds(needs), len(every))

    def goal(self, count: int, marked: int, weight: float) -> float:
        return count if self.end == "top" else min(int(count * (1.0 - self.density)) + 1, count)


class Pcb(Op[PcbParams, Any]):
    """Averages task vectors with weights b_t: of each, the largest share ``density`` of its balances, from 0 to 1.

    Everything is taken over the whole model. Differs from the source where all magnitudes, or all balances, of a task
    vector are equal: it divides 0 by 0 there, and here the magnitudes count as smallest, and the balances as 0.
    Not scale-equivariant: tanh takes products of weights as they are.
    """

    name = "pcb"
    formula = (
        "sum_t sgn(tau_t) a_t b_t / max(sum_t b_t, 1e-12),  a_t = |tau_t| less tails,  "
        "b_t = minmax(top of exp(N minmax(a_t)^2) tanh(tau_t sum_j tau_j))"
    )
    source = "Du et al., arXiv 2410.02396; duguodong7/pcb-merging, pcb-merging.py"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    Params = PcbParams

    def statistics(self, params: PcbParams, inputs: Ids, step: str) -> dict[str, AnyStatistic]:
        statistics: dict[str, AnyStatistic] = {}
        for i, delta in enumerate(inputs["deltas"]):
            low, high = (MagnitudeBound((delta,), 0.5, "global", side) for side in _SIDES)
            of, bounds = (delta, *inputs["deltas"]), (low, high)
            statistics |= {f"low{i}": low, f"high{i}": high}
            statistics[f"cut{i}"] = BalanceRank(of, "global", params.density, needs=bounds)
            statistics[f"top{i}"] = BalanceRank(of, "global", params.density, "top", needs=bounds)
        return statistics

    def apply(self, params: PcbParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        deltas: Sequence[Block] = inputs["deltas"]
        whole: Block = running_sum(deltas)
        merged: Block = whole * 0.0
        taken: Block = merged
        for i, delta in enumerate(deltas):
            bounds = _bounds((stats[f"low{i}"], stats[f"high{i}"]))
            cut, top = (float(stats[f"{name}{i}"][""]) for name in ("cut", "top"))
            balance = _balance(delta, whole, bounds, len(deltas)).clamp(min=cut)
            share = (balance - cut) / (top - cut) if top > cut else balance * 0.0
            merged = merged + delta.sign() * delta.abs().clamp(*bounds) * share
            taken = taken + share
        averaged: Value = merged / taken.clamp(min=SMALLEST_SUM)
        return averaged


_SIDES: tuple[Literal["low", "high"], ...] = ("low", "high")


def _bounds(thresholds: Sequence[Thresholds]) -> tuple[float, float]:
    low, high = (threshold.cuts[""] for threshold in thresholds)
    return low, max(low, high)


def _balance(delta: Block, whole: Block, bounds: tuple[float, float], count: int) -> Block:
    """Return how much an entry counts: by its size among its own, and by its product with the sum of all."""
    low, high = bounds
    size = (delta.abs().clamp(low, high) - low) / (high - low) if high > low else delta * 0.0
    return (size * size * count).exp() * (delta * whole).tanh()
