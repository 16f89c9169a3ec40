"""``trim``: keep the largest magnitudes of a task vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import AnyStatistic, Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.kernels import Value, keep_from
from lines_pipeline.ops.statistics.deviations import Spread, far_from_mean
from lines_pipeline.ops.statistics.norm_fractions import NormFraction, keep_fraction
from lines_pipeline.ops.statistics.ranks import trimmed
from lines_pipeline.ops.trimming import SCOPE, Scope, trim_statistics, trim_summary


class TrimParams(OpParams):
    density: float | None = Field(None, description="Share of entries to keep, in (0, 1]; 1 trims nothing.", gt=0, le=1)
    norm_fraction: float | None = Field(
        None, description="Share of the squared norm to keep, by as few entries as do; and the last entry.", gt=0, le=1
    )
    deviations: float | None = Field(
        None, description="Keep what is further from the mean than so many sample standard deviations.", ge=0
    )
    scope: Scope = Field("global", description=SCOPE)
    exact: bool = Field(
        False, description="With 'density': keep max(1, int(density * n)) entries of n, also among equal magnitudes."
    )


class Trim(Op[TrimParams, Any]):
    """Keeps entries whose magnitude is at least the (d - int(d * density))-th smallest: int(d * density) + 1 entries,
    more where magnitudes are equal, all where that magnitude is 0. ``exact`` keeps max(1, int(d * density)), the later
    ones of equal magnitudes.

    ``norm_fraction`` keeps all of equal magnitudes at its cut, of which the source keeps some.
    """

    name = "trim"
    formula = (
        "tau_i if |tau_i| >= kth(|tau|, d - int(d * density)) else 0;  norm_fraction: the largest tau_i with that "
        "share of sum tau^2;  deviations: tau_i if |tau_i - mean| > deviations * std"
    )
    source = (
        "Yadav et al., arXiv 2306.01708; wang-kee/LiNeS, src/utils/ties_utils.py (topk_values_mask); "
        "prateeky2806/ties-merging, src/utils/merge_utils.py (topk_mask_preserve_normfrac, greater_than_std_mask)"
    )
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA)}
    Params = TrimParams

    def check(self, params: TrimParams, counts: Mapping[str, int]) -> str | None:
        given = [name for name in ("density", "norm_fraction", "deviations") if getattr(params, name) is not None]
        if len(given) != 1:
            return f"needs exactly one of 'density', 'norm_fraction' and 'deviations', found {len(given)}"
        return "'exact' is for 'density'" if params.exact and params.density is None else None

    def statistics(self, params: TrimParams, inputs: Ids, step: str) -> Mapping[str, AnyStatistic]:
        if params.density is not None:
            return trim_statistics([params.density], params.scope, inputs["delta"], exact=params.exact)
        if params.norm_fraction is not None:
            return {"fraction": NormFraction(inputs["delta"], params.scope, params.norm_fraction)}
        return {"spread": Spread(inputs["delta"], params.scope)}

    def apply_at(
        self, params: TrimParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any], position: int
    ) -> Value:
        delta = inputs["delta"][0]
        if params.norm_fraction is not None:
            kept: Value = keep_fraction(delta, stats["fraction"], tensor, position)
            return kept
        if params.deviations is not None:
            return delta * far_from_mean(delta, stats["spread"], params.deviations, tensor)
        return keep_from(*trimmed(delta, stats.get("threshold0"), tensor, position))

    def summary(
        self, params: TrimParams, stats: Mapping[str, Any], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        if params.density is None:
            return {"num_params": sum(numels.values())}
        return trim_summary([params.density], params.scope, stats, sum(numels.values()))
