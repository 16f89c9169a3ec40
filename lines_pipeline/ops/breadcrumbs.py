"""``breadcrumbs``: drop the largest entries of each tensor, and the smallest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.statistics.contract import Needs, StatisticOf
from lines_pipeline.ops.statistics.norms import DroppingNorms, Norms, rescaled
from lines_pipeline.ops.statistics.ranks import RankedEntries, RankedEntry, drop_after_entry, keep_from_entry
from lines_pipeline.ops.statistics.thresholds import Thresholds


class BreadcrumbsParams(OpParams):
    density: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0,), description="Share of entries to keep of each tensor: number or map by item."
    )
    gamma: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.01,), description="Share of largest entries to drop first: number or map by item."
    )
    rescale: Literal["density", "l1", "none"] = Field(
        "none", description="Divide by the density, restore the L1 norm of each tensor, or leave as is."
    )


@dataclass(frozen=True)
class BandNorms(DroppingNorms):
    """Measures the L1 norm of each tensor before entries are dropped, and after."""

    def kept(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, position: int) -> Value:
        return _within(values[0], needs, tensor, position)


class Breadcrumbs(Op[BreadcrumbsParams, Thresholds | Norms]):
    """Keeps int(density n) of a tensor's n entries: those that follow the int(gamma n) largest ones.

    Where fewer follow, fewer of the largest are dropped. Of a scalar nothing is kept, unless the density is 1, which
    keeps everything. Of equal magnitudes the later one counts as the larger.
    """

    name = "breadcrumbs"
    formula = "tau_i if n - int(density n) - int(gamma n) < rank_i <= n - int(gamma n) else 0, ranks by |tau|"
    source = "Davari, Belilovsky, arXiv 2312.06795; arcee-ai/mergekit 0.1.5, mergekit/sparsify.py (magnitude_outliers)"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA)}
    per_item = {"density": "delta", "gamma": "delta"}
    Params = BreadcrumbsParams

    def statistics(
        self, params: BreadcrumbsParams, inputs: Ids, step: str
    ) -> Mapping[str, StatisticOf[Thresholds | Norms]]:
        if params.density[0] == 1.0:
            return {}
        of, shares = inputs["delta"], {"density": params.density[0], "gamma": params.gamma[0], "at_least": 0}
        first = RankedEntry(of, scope="tensor", end="first", **shares)  # type: ignore[arg-type]
        last = RankedEntry(of, scope="tensor", end="last", **shares)  # type: ignore[arg-type]
        norms = {"norms": BandNorms(of, needs=(first, last))} if params.rescale == "l1" else {}
        return {"first": first, "last": last, **norms}

    def apply_at(
        self,
        params: BreadcrumbsParams,
        inputs: Values,
        tensor: TensorSpec,
        stats: Mapping[str, Thresholds | Norms],
        position: int,
    ) -> Value:
        delta, density = inputs["delta"][0], params.density[0]
        if density == 1.0:
            return delta
        first, last, norms = stats["first"], stats["last"], stats.get("norms", {})
        assert isinstance(first, RankedEntries) and isinstance(last, RankedEntries) and isinstance(norms, Mapping)
        kept = _within(delta, (first, last), tensor, position)
        return rescaled(kept, params.rescale, density, norms.get(tensor.name))


def _within(delta: Value, entries: Sequence[RankedEntries], tensor: TensorSpec, position: int) -> Value:
    """Return the entries from one to another."""
    first, last = entries
    kept: Value = keep_from_entry(drop_after_entry(delta, last, tensor, position), first, tensor, position)
    return kept
