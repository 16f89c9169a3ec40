"""``consensus``: keep the merged vector where at least ``min_tasks`` task masks are set."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.statistics.norms import Count
from lines_pipeline.ops.tall_mask import mask_count, tall_mask


class ConsensusParams(OpParams):
    threshold: tuple[float, ...] = Field((0.4,), description="lambda of each TALL mask: number, list or map by item.")
    min_tasks: int = Field(2, description="Masks that have to agree; 0 keeps all, more than N none.", ge=0)


class Consensus(Op[ConsensusParams, int]):
    """TALL masks of ``deltas`` against ``merged`` (or the given ``masks``) vote on every entry."""

    name = "consensus"
    formula = "tau_merged where sum_t m_t >= min_tasks, else 0"
    source = "Wang et al., arXiv 2405.07813; wang-kee/LiNeS, src/utils/tallmask_utils.py (construct_consensus_mask)"
    gives = EdgeType.DELTA
    inputs = {
        "deltas": Port(EdgeType.DELTA, many=True, optional=True),
        "merged": Port(EdgeType.DELTA, followed=True),
        "masks": Port(EdgeType.MASK, many=True, optional=True),
    }
    per_item = {"threshold": "deltas"}
    Params = ConsensusParams

    def check(self, params: ConsensusParams, counts: Mapping[str, int]) -> str | None:
        return None if counts["deltas"] or counts["masks"] else "needs 'deltas' (to make TALL masks of) or 'masks'"

    def statistics(self, params: ConsensusParams, inputs: Ids, step: str) -> dict[str, Count]:
        return {"kept": Count((step,), optional=True)}

    def apply(self, params: ConsensusParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, int]) -> Value:
        merged = inputs["merged"][0]
        masks = inputs["masks"] or tuple(
            tall_mask(delta, merged, threshold)
            for delta, threshold in zip(inputs["deltas"], params.threshold, strict=True)
        )
        return merged * (mask_count(masks, merged) >= params.min_tasks)

    def summary(
        self, params: ConsensusParams, stats: Mapping[str, int], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        return {"num_params": sum(numels.values())} | ({"nonzero_entries": stats["kept"]} if "kept" in stats else {})
