"""``ram``: average what several task vectors changed, keep whole what one of them did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Never

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value, exceeds, running_sum


class RamParams(OpParams):
    epsilon: float = Field(1e-5, description="Magnitude above which an entry counts as changed.", ge=0)


def changes(deltas: Sequence[Value], epsilon: float) -> tuple[list[Value], Value]:
    """Return where each task vector changed an entry (a mask), and how many of them did."""
    changed = [exceeds(delta.abs(), epsilon) for delta in deltas]
    count = deltas[0] * 0.0
    for mask in changed:
        count = count + mask
    return changed, count


class Ram(Op[RamParams]):
    """Divides the sum of the changed entries by how many task vectors changed them."""

    name = "ram"
    formula = "sum_t tau_t [|tau_t| > epsilon] / max(1, number of t with |tau_t| > epsilon)"
    source = "arXiv 2601.13572; arcee-ai/mergekit, mergekit/merge_methods/ram.py (ram_merge)"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    Params = RamParams

    def apply(self, params: RamParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        deltas = inputs["deltas"]
        changed, count = changes(deltas, params.epsilon)
        kept = [delta * mask for delta, mask in zip(deltas, changed, strict=True)]
        return running_sum(kept) / count.clamp(min=1.0)
