"""``magnitude-mask``: where a task vector is among its largest magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, Port, Statistic, Values
from lines_pipeline.ops.kernels import Value, all_set
from lines_pipeline.ops.trimming import DensityParams, trim_statistics, trim_summary


class MagnitudeMask(Op):
    """The mask of ``trim``, to be applied to another task vector, such as the sum."""

    name = "magnitude-mask"
    formula = "m_i = |tau_i| >= kth(|tau|, d - int(d * density))"
    source = "wang-kee/LiNeS, src/eval/aggregation.py (mag_masking)"
    gives = EdgeType.MASK
    inputs = {"delta": Port(EdgeType.DELTA)}
    Params = DensityParams

    def statistics(
        self, params: DensityParams, inputs: Mapping[str, tuple[str, ...]], step: str
    ) -> dict[str, Statistic]:
        return trim_statistics([params.density], params.scope, inputs["delta"])

    def apply(self, params: DensityParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        delta = inputs["delta"][0]
        if "threshold0" not in stats:
            return all_set(delta)
        cut: float = stats["threshold0"].of(tensor)
        return delta.abs() >= cut

    def facts(
        self, params: DensityParams, stats: Mapping[str, Any], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> dict[str, Any]:
        total = sum(numels.values())
        found = trim_summary([params.density], params.scope, stats, total)
        if "kept_per_expert" in found and total:
            found["mask_density"] = [kept / total for kept in found["kept_per_expert"]]
        return found
