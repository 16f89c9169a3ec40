"""``magnitude-mask``: where a task vector is among its largest magnitudes."""

from __future__ import annotations

from collections.abc import Mapping

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, Port, Summary, Values
from lines_pipeline.ops.kernels import Value, all_set
from lines_pipeline.ops.statistics.thresholds import Thresholds, TrimThreshold
from lines_pipeline.ops.trimming import DensityParams, trim_statistics, trim_summary


class MagnitudeMask(Op[DensityParams, Thresholds]):
    """The mask of ``trim``, to be applied to another task vector, such as the sum."""

    name = "magnitude-mask"
    formula = "m_i = |tau_i| >= kth(|tau|, d - int(d * density))"
    source = "wang-kee/LiNeS, src/eval/aggregation.py (mag_masking)"
    gives = EdgeType.MASK
    inputs = {"delta": Port(EdgeType.DELTA)}
    Params = DensityParams

    def statistics(self, params: DensityParams, inputs: Ids, step: str) -> dict[str, TrimThreshold]:
        return trim_statistics([params.density], params.scope, inputs["delta"])

    def apply(
        self, params: DensityParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Thresholds]
    ) -> Value:
        delta = inputs["delta"][0]
        if "threshold0" not in stats:
            return all_set(delta)
        return delta.abs() >= stats["threshold0"].of(tensor)

    def summary(
        self,
        params: DensityParams,
        stats: Mapping[str, Thresholds],
        numels: Mapping[str, int],
        counts: Mapping[str, int],
    ) -> Summary:
        total = sum(numels.values())
        figures = trim_summary([params.density], params.scope, stats, total)
        kept = stats["threshold0"].kept if stats else total
        return figures | ({"mask_density": [kept / total]} if total else {})
