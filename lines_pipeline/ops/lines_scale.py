"""``lines-scale``: scale the update of each block by its depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.depth import LAYER_MAP, LayerPatterns, Place, explain_blocks, pattern_diagnostics, place_of
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.statistics.contract import StatisticOf
from lines_pipeline.ops.statistics.norms import SumNorm, TensorNorms

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "quadratic": lambda x: x * x,
    "sqrt": math.sqrt,
    "cosine": lambda x: (1.0 - math.cos(math.pi * x)) / 2.0,
    "step": lambda x: float(x >= 0.5),
    "deep-down": lambda x: 1.0 - x,
}
"""The share of beta that a block has on top of alpha, by its depth from 0 (the first one) to 1."""

Table = Annotated[tuple[float, ...], Field(strict=False, min_length=2)]


class LinesScaleParams(OpParams):
    alpha: float | Literal["auto"] | None = Field(None, description="Scale of the first block and of what is in none.")
    beta: float = Field(0.0, description="What the last block has on top of alpha.")
    gamma: float | None = Field(None, description="Short for alpha = gamma, beta = 1 - gamma.", ge=0, le=1)
    blocks: LayerPatterns = Field("auto", description=LAYER_MAP)
    schedule: Literal["linear", "quadratic", "sqrt", "cosine", "step", "deep-down", "uniform", "table"] = Field(
        "linear",
        description="How the scale grows from block to block; uniform: the mean of linear's, weighted by L1 norms.",
    )
    table: Table | Annotated[tuple[Table, ...], Field(strict=False, min_length=1)] | None = Field(
        None, description="For 'schedule: table': the scale of each block, or a list of such tables, one a tower."
    )
    outside: Literal["alpha", "by-position"] = Field(
        "alpha",
        description="Scale of what is in no block: alpha, or by-position: before the blocks that of the first one, "
        "else that of the last one.",
    )

    @property
    def slope(self) -> float:
        """Return beta, or what ``gamma`` makes of it."""
        return self.beta if self.gamma is None else 1.0 - self.gamma

    @property
    def tables(self) -> tuple[tuple[float, ...], ...]:
        """Return the tables, one a tower; one alone is for all of them."""
        nested = tuple(row for row in self.table or () if isinstance(row, tuple))
        flat = tuple(number for number in self.table or () if isinstance(number, float))
        return nested or ((flat,) if flat else ())

    def scale(self, alpha: float, place: Place) -> float:
        """Return the scale of a block."""
        if self.schedule == "table":
            return self.tables[place.tower if len(self.tables) > 1 else 0][place.block]
        return alpha + self.slope * SCHEDULES[self.schedule](place.block / (place.depth - 1))


Computed = float | Mapping[str, float]
"""A norm, share or scale; of ``norms`` those of all tensors, by name."""
Stats = Mapping[str, Computed]


class LinesScale(Op[LinesScaleParams, Computed]):
    """``alpha: auto`` is norm1(sum of ``deltas``) / norm1(``delta``) / N, and 1/N where the merged norm is 0.

    It is 1/N too where ``delta`` is that sum itself: then no norm has to be known before the result. All schedules but
    ``linear`` are ours; ``deep-down`` is the paper's forgetting study, of which no code is published. ``uniform`` is a
    control: one scale, under which the update has the size that ``linear`` leaves it.
    """

    name = "lines-scale"
    formula = (
        "lambda(l) * tau,  lambda(l) = alpha + beta * s(x),  x = l / (L - 1),  l = 0..L-1;  alpha outside the blocks;  "
        "s: linear x, quadratic x^2, sqrt, cosine (1 - cos(pi x)) / 2, step [x >= 1/2], deep-down 1 - x"
    )
    source = "Wang et al., arXiv 2410.17146; wang-kee/LiNeS, src/eval/eval.py (LiNeS_scaling)"
    gives = EdgeType.DELTA
    inputs = {
        "delta": Port(EdgeType.DELTA, followed=True, from_sum=True),
        "deltas": Port(EdgeType.DELTA, many=True, optional=True, statistics_only=True),
    }
    Params = LinesScaleParams

    def check(self, params: LinesScaleParams, counts: Mapping[str, int]) -> str | None:
        if (params.schedule == "table") != (params.table is not None):
            return "'table' and 'schedule: table' go together"
        if params.table is not None and (params.gamma is not None or params.beta != 0.0):
            return "a table holds the scales themselves: it takes neither 'beta' nor 'gamma'"
        if params.table is not None and params.alpha is None and params.outside == "by-position":
            return None
        if params.gamma is not None:
            clash = params.alpha is not None or params.beta != 0.0
            return "give either 'gamma' or 'alpha' and 'beta', not both" if clash else None
        if params.alpha is None and params.table is not None:
            return "needs 'alpha', the scale outside the blocks, or 'outside: by-position'"
        if params.alpha is None:
            return "needs 'alpha' (a number or auto) and 'beta', or 'gamma'"
        if params.alpha == "auto" and not counts["deltas"]:
            return "'alpha: auto' needs 'deltas', the task vectors that were merged"
        return None

    def diagnostics(self, params: LinesScaleParams, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        return pattern_diagnostics(params.blocks, "blocks")

    def statistics(self, params: LinesScaleParams, inputs: Ids, step: str) -> dict[str, StatisticOf[Computed]]:
        statistics: dict[str, StatisticOf[Computed]] = {}
        if params.schedule == "uniform":
            statistics["norms"] = TensorNorms(inputs["delta"])
        if params.alpha != "auto":
            return statistics
        needless = inputs["delta"] == inputs["deltas"]
        of = {"norm_mtv": inputs["delta"], "norm_summed_tvs": inputs["deltas"]}
        return statistics | {name: SumNorm(steps, optional=needless) for name, steps in of.items()}

    def layer_pattern(self, params: LinesScaleParams) -> str | tuple[str, ...]:
        return params.blocks

    def check_depths(self, params: LinesScaleParams, depths: Mapping[str, int]) -> str | None:
        tables = params.tables
        if not tables:
            return None
        if len(tables) not in (1, len(depths)):
            return f"'table' has {len(tables)} tables, expected one, or one for each tower: {_told(depths)}"
        rows = tables if len(tables) > 1 else tables * len(depths)
        wrong = [(name, len(row)) for row, (name, depth) in zip(rows, depths.items(), strict=True) if len(row) != depth]
        return (
            f"'table' has {wrong[0][1]} numbers for '{wrong[0][0]}', expected one a block: {_told(depths)}"
            if wrong
            else None
        )

    def places_outside(self, params: LinesScaleParams) -> bool:
        return params.outside == "by-position"

    def bind_model(self, params: LinesScaleParams, stats: Stats, places: Mapping[str, Place]) -> Stats:
        return {**stats, "share": _mean_share(_norms(stats), places)} if params.schedule == "uniform" else stats

    def bind_tensor(
        self, params: LinesScaleParams, stats: Stats, place: Place | None, counts: Mapping[str, int]
    ) -> Stats:
        alpha = _alpha(params, stats, counts["deltas"])
        if params.schedule == "uniform":
            return {"scale": alpha + params.slope * _number(stats, "share")}
        return {"scale": alpha if place is None else params.scale(alpha, place)}

    def apply(self, params: LinesScaleParams, inputs: Values, tensor: TensorSpec, stats: Stats) -> Value:
        return inputs["delta"][0] * _number(stats, "scale")

    def summary(
        self, params: LinesScaleParams, stats: Stats, numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        experts = {"num_experts": counts["deltas"]} if params.alpha == "auto" else {}
        told = {name: value for name, value in stats.items() if name != "norms"}
        return {**told, **experts, "alpha": _alpha(params, stats, counts["deltas"])}

    def shown_figures(self, params: LinesScaleParams) -> tuple[str, ...]:
        return ("alpha",) if params.alpha == "auto" else ()

    def explain(self, params: LinesScaleParams, value: PlannedValue, stats: Stats | None) -> OpExplanation | None:
        assert value.layers is not None
        if params.schedule == "uniform":
            return self._explain_uniform(params, value, value.layers, stats)
        alpha = None if stats is None else _alpha(params, stats, value.counts["deltas"])
        outside = "auto" if alpha is None else f"{alpha:.6g}"
        outside = "as the nearest block" if self.places_outside(params) else outside

        def said(place: Place) -> str:
            return _said(params, alpha, place)

        def scale(place: Place) -> float:
            return params.scale(alpha or 0.0, place)

        return explain_blocks(value.layers, outside, said, None if alpha is None else scale)

    def _explain_uniform(
        self, params: LinesScaleParams, value: PlannedValue, layers: LayerMap, stats: Stats | None
    ) -> OpExplanation:
        """Tell the one scale, once the norms of all tensors are known."""
        if stats is None:
            told = "the mean of linear's scales"
            return explain_blocks(layers, told, lambda place: told, None)
        ends = {name: layers.nearest_end(name) for name in _norms(stats)} if self.places_outside(params) else {}
        places = {name: place_of(layers, block) for name, block in {**ends, **layers.blocks}.items()}
        alpha = _alpha(params, stats, value.counts["deltas"])
        scale = alpha + params.slope * _mean_share(_norms(stats), places)
        return explain_blocks(layers, f"{scale:.6g}", lambda place: f"{scale:.6g}", lambda place: scale)


def _mean_share(norms: Mapping[str, float], places: Mapping[str, Place]) -> float:
    """Return the mean share of beta over tensors, weighted by their norms; 0 where nothing is to be scaled."""
    shares = (norm * place.block / (place.depth - 1) for name, norm in norms.items() if (place := places.get(name)))
    return math.fsum(shares) / (math.fsum(norms.values()) or 1.0)


def _norms(stats: Stats) -> Mapping[str, float]:
    norms = stats["norms"]
    assert isinstance(norms, Mapping)
    return norms


def _number(stats: Stats, name: str) -> float:
    number = stats[name]
    assert not isinstance(number, Mapping)
    return number


def _said(params: LinesScaleParams, alpha: float | None, place: Place) -> str:
    """Return the scale of a block; as a sum where alpha is not known."""
    if alpha is not None or params.schedule == "table":
        return f"{params.scale(alpha or 0.0, place):.6g}"
    share = f"{place.block}/{place.depth - 1}"
    if params.schedule != "linear":
        share = f"{SCHEDULES[params.schedule](place.block / (place.depth - 1)):.6g}"
    return f"auto + {params.slope:g} * {share}"


def _alpha(params: LinesScaleParams, stats: Stats, experts: int) -> float:
    """Return the resolved alpha; ``experts`` is the number of ``deltas``."""
    if params.gamma is not None:
        return params.gamma
    if params.alpha != "auto":
        return params.alpha or 0.0
    if "norm_mtv" not in stats or "norm_summed_tvs" not in stats:
        return 1.0 / experts
    merged, summed = _number(stats, "norm_mtv"), _number(stats, "norm_summed_tvs")
    return 1.0 / experts if not merged or merged == summed else summed / merged / experts


def _told(depths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} has {depth} blocks" for name, depth in depths.items())
