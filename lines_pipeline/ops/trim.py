"""``trim``: keep the largest magnitudes of a task vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.kernels import Value, keep_from
from lines_pipeline.ops.statistics.thresholds import Thresholds, TrimThreshold


class TrimParams(OpParams):
    density: float = Field(description="Share of entries to keep, in (0, 1]; 1 trims nothing.", gt=0, le=1)
    scope: Literal["global", "tensor"] = Field("global", description="One cut for the whole model, or one a tensor.")


def trim_statistics(density: float, scope: str, deltas: tuple[str, ...]) -> dict[str, TrimThreshold]:
    """A threshold for each of ``deltas``; none where nothing is trimmed."""
    if density == 1.0:
        return {}
    return {f"threshold{index}": TrimThreshold((delta,), density, scope) for index, delta in enumerate(deltas)}


def threshold_of(stats: Mapping[str, object], tensor: TensorSpec, index: int = 0) -> float:
    """The smallest magnitude that is kept of one tensor; 0 where nothing is trimmed."""
    thresholds = stats.get(f"threshold{index}")
    return thresholds.of(tensor) if isinstance(thresholds, Thresholds) else 0.0


def trim_summary(density: float, scope: str, stats: Mapping[str, object], total: int, count: int) -> dict[str, object]:
    """Rank, thresholds and kept entries as the reference code counts them (global scope)."""
    found: dict[str, object] = {"num_params": total}
    if density == 1.0:
        return found | {"kept_per_expert": [total] * count}
    known = (stats[f"threshold{index}"] for index in range(count))
    thresholds = [one for one in known if isinstance(one, Thresholds)]
    if scope == "global" and total:
        found["trim_rank"] = total - int(total * density)
        found["trim_thresholds"] = [one.of(TensorSpec("", "float32", ())) for one in thresholds]
    return found | {"kept_per_expert": [one.kept for one in thresholds]}


class Trim(Op[TrimParams, Thresholds]):
    """Keeps entries whose magnitude is at least the (d - int(d * density))-th smallest: int(d * density) + 1 entries,
    more where magnitudes are equal, all where that magnitude is 0."""

    name = "trim"
    formula = "tau_i if |tau_i| >= kth(|tau|, d - int(d * density)) else 0"
    source = "Yadav et al., arXiv 2306.01708; wang-kee/LiNeS, src/utils/ties_utils.py (topk_values_mask)"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA)}
    Params = TrimParams

    def statistics(self, params: TrimParams, inputs: Ids, step: str) -> dict[str, TrimThreshold]:
        return trim_statistics(params.density, params.scope, inputs["delta"])

    def apply(self, params: TrimParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Thresholds]) -> Value:
        return keep_from(inputs["delta"][0], threshold_of(stats, tensor))

    def summary(
        self, params: TrimParams, stats: Mapping[str, Thresholds], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        return trim_summary(params.density, params.scope, stats, sum(numels.values()), 1)
