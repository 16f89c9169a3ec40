"""``ramplus-tl``: RAM that enlarges what one task vector alone changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, Port, Statistic, Values
from lines_pipeline.ops.kernels import Value, exceeds, nonzero_count, running_sum
from lines_pipeline.ops.ram import RamParams, changes
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions


class RamPlusParams(RamParams):
    r: float = Field(0.1, description="How much the share of common changes enlarges the unique ones.", ge=0)
    alpha: float = Field(0.2, description="The largest share of common to unique changes that counts.", ge=0)


Counts = Mapping[str, list[list[int]]]
"""By tensor name, of each task vector: shared and unique changes."""


@dataclass(frozen=True)
class ChangeCounts(Statistic[list[int], Counts]):
    """Counts, by tensor and task vector, the entries that it changed with others, and those that it changed alone."""

    epsilon: float

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        changed, count = changes(values, self.epsilon)
        shared = exceeds(count, 1.0)
        return tuple(
            number
            for mask in changed
            for number in (nonzero_count(mask * (count * shared)), nonzero_count(mask * count))
        )

    def partial(self, *reduced: Reduced) -> list[int]:
        return list(reduced)

    def combine(self, partials: Mapping[str, list[list[int]]], numels: Mapping[str, int], state: None) -> Counts:
        counts = {}
        for name, blocks in partials.items():
            sums = [sum(column) for column in zip(*blocks, strict=True)]
            counts[name] = [[shared, every - shared] for shared, every in zip(sums[::2], sums[1::2], strict=True)]
        return counts


class RamPlusTensorLocal(Op[RamPlusParams, Counts]):
    """Enlarges unique changes of a tensor by how many of a task vector's changes in it are shared."""

    name = "ramplus-tl"
    formula = (
        "ram, with unique entries times 1 + r min(alpha, shared_t / max(unique_t, epsilon)), counted in the tensor"
    )
    source = "arXiv 2601.13572; arcee-ai/mergekit, mergekit/merge_methods/ram.py (ramplus_tl_merge)"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    Params = RamPlusParams

    def statistics(self, params: RamPlusParams, inputs: Ids, step: str) -> dict[str, ChangeCounts]:
        return {"counts": ChangeCounts(inputs["deltas"], params.epsilon)}

    def apply(self, params: RamPlusParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Counts]) -> Value:
        deltas = inputs["deltas"]
        changed, count = changes(deltas, params.epsilon)
        shared = exceeds(count, 1.0)
        kept = []
        for delta, mask, counts in zip(deltas, changed, stats["counts"][tensor.name], strict=True):
            own = delta * mask
            common = own * shared
            kept.append(common / count.clamp(min=1.0) + (own - common) * _factor(params, *counts))
        return running_sum(kept)


def _factor(params: RamPlusParams, shared: int, unique: int) -> float:
    """Return the factor of unique entries."""
    ratio = shared / max(unique, params.epsilon) if shared else 0.0
    return 1.0 + params.r * min(ratio, params.alpha)
