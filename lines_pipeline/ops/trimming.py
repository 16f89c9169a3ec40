"""What trims have in common: the statistics that they need, and what is kept by these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.base import OpParams
from lines_pipeline.ops.statistics.ranks import RankedEntry
from lines_pipeline.ops.statistics.thresholds import Thresholds, TrimThreshold

Scope = Literal["global", "tensor"]
SCOPE = "One cut for the whole model, or one a tensor."


class DensityParams(OpParams):
    density: float = Field(description="Share of entries to keep, in (0, 1]; 1 trims nothing.", gt=0, le=1)
    scope: Scope = Field("global", description=SCOPE)


def trim_statistics(
    densities: Sequence[float], scope: str, deltas: tuple[str, ...], *, exact: bool = False
) -> dict[str, TrimThreshold]:
    """Return a threshold for each of ``deltas``; none where nothing is trimmed."""
    kind = RankedEntry if exact else TrimThreshold
    thresholds = zip(deltas, densities, strict=True)
    return {f"threshold{i}": kind((delta,), share, scope) for i, (delta, share) in enumerate(thresholds) if share < 1.0}


def trim_summary(densities: Sequence[float], scope: str, stats: Mapping[str, object], total: int) -> dict[str, object]:
    """Rank, thresholds and kept entries as the reference code counts them (global scope)."""
    figures: dict[str, object] = {"num_params": total}
    results = (stats.get(f"threshold{index}") for index in range(len(densities)))
    thresholds = [result if isinstance(result, Thresholds) else None for result in results]
    if scope == "global" and total and any(thresholds):
        ranks = [total - int(total * density) for density in densities]
        figures["trim_rank"] = ranks[0] if len(set(ranks)) == 1 else ranks
        whole = TensorSpec("", "float32", ())
        figures["trim_thresholds"] = [0.0 if threshold is None else threshold.of(whole) for threshold in thresholds]
    return figures | {"kept_per_expert": [total if threshold is None else threshold.kept for threshold in thresholds]}
