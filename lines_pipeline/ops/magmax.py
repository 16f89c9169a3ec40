"""``magmax``: at each entry, the task vector that changed it most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Never

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value


class MagMax(Op[OpParams]):
    """Keeps the entry of largest magnitude; of equal ones the last, so that the order of ``deltas`` matters there."""

    name = "magmax"
    formula = "tau_t of largest |tau_t| at each entry"
    source = "Marczak et al., arXiv 2407.06322; danielm1405/magmax, src/merging/task_vectors.py (merge_max_abs)"
    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    Params = OpParams

    def apply(self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        largest, *later = inputs["deltas"]
        for delta in later:
            stays = largest.abs() > delta.abs()
            largest = (largest * stays) + (delta - delta * stays)
        return largest
