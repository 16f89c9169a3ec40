"""``tall-mask``: where a task's own update stands out against the rest of the merged one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.kernels import Value, zeros_like
from lines_pipeline.ops.statistics.norms import Count


class TallMaskParams(OpParams):
    threshold: tuple[float, ...] = Field((0.4,), description="lambda of the mask: number, list or map by item.")


def tall_mask(delta: Value, merged: Value, threshold: float) -> Value:
    """Return a mask of ``delta``'s shape: strictly larger than ``threshold`` times its distance to ``merged``."""
    return delta.abs() > (merged - delta).abs() * threshold


def mask_count(masks: Sequence[Value], like: Value) -> Value:
    """Return how many of the masks are set at each entry, in the type of ``like``."""
    total = zeros_like(like)
    for mask in masks:
        total = total + mask
    return total


class TallMask(Op[TallMaskParams, int]):
    """One mask a task vector; a per-task model is the base plus the masked merged vector."""

    name = "tall-mask"
    formula = "m_t = |tau_t| > lambda_t * |tau_merged - tau_t|"
    source = "Wang et al., arXiv 2405.07813; wang-kee/LiNeS, src/utils/tallmask_utils.py (construct_tall_mask)"
    gives = EdgeType.MASK
    inputs = {"deltas": Port(EdgeType.DELTA, each=True), "merged": Port(EdgeType.DELTA, followed=True)}
    per_item = {"threshold": "deltas"}
    Params = TallMaskParams

    def statistics(self, params: TallMaskParams, inputs: Ids, step: str) -> dict[str, Count]:
        return {"set": Count((step,), optional=True)}

    def apply(self, params: TallMaskParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, int]) -> Value:
        return tall_mask(inputs["deltas"][0], inputs["merged"][0], params.threshold[0])

    def summary(
        self, params: TallMaskParams, stats: Mapping[str, int], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        total = sum(numels.values())
        return {"num_params": total, "mask_density": [stats["set"] / total]} if "set" in stats and total else {}
