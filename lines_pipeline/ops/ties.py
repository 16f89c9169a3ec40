"""``ties``: trim, elect a sign, merge the entries that agree with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import AnyStatistic, Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.kernels import Value, add_agreeing, keep_from, larger, or_one, zeros_like
from lines_pipeline.ops.statistics.ranks import trimmed
from lines_pipeline.ops.statistics.sign_election import Electing, Kept, KeptSquares, SignMajority, by_sign
from lines_pipeline.ops.trimming import SCOPE, Scope, trim_statistics, trim_summary


class TiesParams(OpParams):
    density: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.2,), description="Share of each task vector to keep, in (0, 1]: number, list or map by item."
    )
    scope: Scope = Field("global", description=SCOPE)
    exact: bool = Field(False, description="Keep max(1, int(density * n)) entries of n, also among equal magnitudes.")
    aggregate: Literal["mean", "sum", "max"] = Field("mean", description="How agreeing entries are merged.")
    weights: tuple[float, ...] = Field(
        (1.0,), description="Factor of each vector, after its trim, before the election."
    )
    normalize: bool = Field(
        False, description="With 'aggregate: sum': divide by the sum of the agreeing weights, by 1 where that is 0."
    )
    zero_sign: Literal["majority", "positive"] = Field(
        "majority", description="Sign of entries that elect none: that of most others in the model, or positive."
    )
    sign: Electing = Field(
        "mass",
        description="What elects: the sum, the sum of shares of each vector's squared norm, or the largest such share.",
    )


class Ties(Op[TiesParams, Any]):
    """The election is by mass. An entry whose sum is exactly 0 takes the majority sign of the whole model; where that
    is 0 too it counts as negative (its ``max`` is 0). Exact zeros never count in the mean.

    ``sign_from`` gives the signs in place of an election: where it is 0, entries count as negative, as in the source
    (its ``max`` is 0), under ``zero_sign: positive`` as positive. mergekit's ``ties`` is ``scope: tensor, exact: true,
    zero_sign: positive, aggregate: sum, normalize: true``.
    """

    name = "ties"
    version = 3
    formula = "s = sgn(sum_t trim(tau_t));  mean | sum | s * max|.|  of the trimmed entries with sign s"
    source = (
        "Yadav et al., arXiv 2306.01708; wang-kee/LiNeS, src/utils/ties_utils.py (ties_merging); "
        "prateeky2806/ties-merging, src/utils/merge_utils.py (merge_methods)"
    )
    gives = EdgeType.DELTA
    inputs = {
        "deltas": Port(EdgeType.DELTA, many=True, followed=True),
        "sign_from": Port(EdgeType.DELTA, optional=True),
    }
    per_item = {"weights": "deltas", "density": "deltas"}
    Params = TiesParams

    def check(self, params: TiesParams, counts: Mapping[str, int]) -> str | None:
        if params.normalize and params.aggregate != "sum":
            return "'normalize' is for 'aggregate: sum'"
        return "give 'sign_from' or 'sign', not both" if counts["sign_from"] and params.sign != "mass" else None

    def statistics(self, params: TiesParams, inputs: Ids, step: str) -> dict[str, AnyStatistic]:
        deltas = inputs["deltas"]
        trims = trim_statistics(params.density, params.scope, deltas, exact=params.exact)
        statistics, needs = dict[str, AnyStatistic](trims), tuple(trims.values())
        if params.sign != "mass":
            own = [(statistics[name],) if (name := f"threshold{i}") in statistics else () for i in range(len(deltas))]
            statistics |= {f"square{i}": KeptSquares((delta,), needs=own[i]) for i, delta in enumerate(deltas)}
        if params.zero_sign == "positive" or inputs.get("sign_from"):
            return statistics
        election = SignMajority(
            deltas,
            params.weights,
            params.aggregate == "max",
            tuple(density < 1.0 for density in params.density),
            params.sign,
            needs=(*needs, *(statistic for name, statistic in statistics.items() if name.startswith("square"))),
        )
        return statistics | {"election": election}

    def apply_at(
        self, params: TiesParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any], position: int
    ) -> Value:
        pairs = (
            trimmed(delta, stats.get(f"threshold{i}"), tensor, position) for i, delta in enumerate(inputs["deltas"])
        )
        kept = [(*pair, weight) for pair, weight in zip(pairs, params.weights, strict=True)]
        squares = [stats[f"square{i}"] for i in range(len(kept))] if params.sign != "mass" else []
        given = next(iter(inputs["sign_from"]), None)
        total = by_sign(kept, squares, params.sign)[0] if given is None else given
        majority = stats["election"].majority if "election" in stats else int(params.zero_sign == "positive")
        sign = (total.sign() * 2.0 + majority).sign()  # an entry of sum 0 takes the majority sign
        direction = sign if majority else (sign * 2.0 + -1.0).sign()  # and counts as negative where that is 0
        merged = _normalized(kept, direction) if params.normalize else _AGGREGATES[params.aggregate](kept, direction)
        signed = merged * (sign if params.aggregate == "max" else direction)
        return signed + 0.0  # where nothing is kept, 0 and not -0, whatever the majority

    def summary(
        self, params: TiesParams, stats: Mapping[str, Any], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        figures = trim_summary(params.density, params.scope, stats, sum(numels.values()))
        figures |= {"num_experts": counts["deltas"]}
        if "election" not in stats:
            return figures
        election = stats["election"]
        return figures | {"sign_majority": election.majority, "zero_sign_entries": election.zero_entries}


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


def _normalized(kept: Kept, direction: Value) -> Value:
    """Sum of the magnitudes that agree with the direction, over the sum of their weights, or over 1 where that is 0."""
    total = taken = zeros_like(direction)
    for delta, threshold, weight in kept:
        agreeing = (keep_from(delta, threshold) * weight * direction).clamp(min=0.0)
        total, taken = total + agreeing, taken + agreeing.sign() * weight
    return total / or_one(taken, [weight for _, _, weight in kept])


_AGGREGATES = {"mean": _mean, "sum": _sum, "max": _max}
