"""``ties``: trim, elect a sign, merge the entries that agree with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, Port, Statistic, Summary, Values
from lines_pipeline.ops.kernels import Value, add_agreeing, add_kept, keep_from, larger, zeros_like
from lines_pipeline.ops.statistics.sign_election import Election, SignMajority
from lines_pipeline.ops.statistics.thresholds import Thresholds
from lines_pipeline.ops.trim import TrimParams, threshold_of, trim_statistics, trim_summary


class TiesParams(TrimParams):
    density: float = Field(0.2, description="Share of each task vector to keep, in (0, 1].", gt=0, le=1)
    aggregate: Literal["mean", "sum", "max"] = Field("mean", description="How agreeing entries are merged.")
    weights: tuple[float, ...] = Field(
        (1.0,), description="Factor of each vector, after its trim, before the election."
    )


Found = Thresholds | Election
"""What the statistics come out as."""


class Ties(Op[TiesParams, Found]):
    """The election is by mass. An entry whose sum is exactly 0 takes the majority sign of the whole model; where that
    is 0 too it counts as negative (its ``max`` is 0). Exact zeros never count in the mean."""

    name = "ties"
    version = 2
    formula = "s = sgn(sum_t trim(tau_t));  mean | sum | s * max|.|  of the trimmed entries with sign s"
    source = "Yadav et al., arXiv 2306.01708; wang-kee/LiNeS, src/utils/ties_utils.py (ties_merging)"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    per_item = {"weights": "deltas"}
    Params = TiesParams

    def statistics(self, params: TiesParams, inputs: Ids, step: str) -> Mapping[str, Statistic[Any, Found, Any]]:
        trims = trim_statistics(params.density, params.scope, inputs["deltas"])
        needs, max_like = tuple(trims.values()), params.aggregate == "max"
        return {**trims, "election": SignMajority(inputs["deltas"], params.weights, max_like, needs=needs)}

    def apply(self, params: TiesParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Found]) -> Value:
        kept = [(delta, threshold_of(stats, tensor, i), params.weights[i]) for i, delta in enumerate(inputs["deltas"])]
        total = count = zeros_like(inputs["deltas"][0])
        for delta, threshold, weight in kept:
            total, count = add_kept(total, count, delta, threshold, weight)
        majority = _election(stats).majority
        sign = (total.sign() * 2.0 + majority).sign()  # an entry of sum 0 takes the majority sign
        direction = sign if majority else (sign * 2.0 + -1.0).sign()  # and counts as negative where that is 0
        signed = _AGGREGATES[params.aggregate](kept, direction) * (sign if params.aggregate == "max" else direction)
        return signed + 0.0  # where nothing is kept, 0 and not -0, whatever the majority

    def summary(
        self,
        params: TiesParams,
        stats: Mapping[str, Found],
        numels: Mapping[str, int],
        counts: Mapping[str, int],
    ) -> Summary:
        count = counts["deltas"]
        found = trim_summary(params.density, params.scope, stats, sum(numels.values()), count)
        election = _election(stats)
        return found | {
            "num_experts": count,
            "sign_majority": election.majority,
            "zero_sign_entries": election.zero_entries,
        }


def _election(stats: Mapping[str, Found]) -> Election:
    election = stats["election"]
    assert isinstance(election, Election)
    return election


Kept = list[tuple[Value, float, float]]
"""Task vectors, each with its threshold and weight."""


def _sums(kept: Kept, direction: Value) -> tuple[Value, Value]:
    """Sum of the magnitudes that agree with the direction, and how many they are."""
    total = count = zeros_like(direction)
    for delta, threshold, weight in kept:
        total, count = add_agreeing(total, count, delta, threshold, weight, direction=direction)
    return total, count


def _sum(kept: Kept, direction: Value) -> Value:
    return _sums(kept, direction)[0]


def _mean(kept: Kept, direction: Value) -> Value:
    total, count = _sums(kept, direction)
    return total / count.clamp(min=1.0)


def _max(kept: Kept, direction: Value) -> Value:
    largest = zeros_like(direction)
    for delta, threshold, weight in kept:
        largest = larger(largest, keep_from(delta, threshold) * weight * direction)
    return largest


_AGGREGATES = {"mean": _mean, "sum": _sum, "max": _max}
