"""``slerp``: go along the arc between two models."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import OpParams, Port, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.spheres import SphereOp, combined
from lines_pipeline.ops.statistics.gram import Gram, Grams

NEARLY_PARALLEL = 0.9995
"""From this cosine on, the arc is taken for a line."""
NO_DIRECTION = 1e-8
"""Norms up to this are not divided by."""


class SlerpParams(OpParams):
    t: float = Field(description="How far to go from the first model (0) to the second (1).")


class Slerp(SphereOp[SlerpParams]):
    """Interpolates each tensor along the arc between its two directions, with the models' own lengths."""

    name = "slerp"
    formula = "(sin((1 - t) a) theta_1 + sin(t a) theta_2) / sin(a), a the angle between; a line where |cos a| > 0.9995"
    source = "arcee-ai/mergekit, mergekit/merge_methods/slerp.py"
    inputs = {"models": Port(EdgeType.WEIGHTS, many=True, min_count=2)}
    Params = SlerpParams

    def check(self, params: SlerpParams, counts: Mapping[str, int]) -> str | None:
        return None if counts["models"] == 2 else f"'models' takes two models, got {counts['models']}"

    def apply(self, params: SlerpParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Grams]) -> Value:
        return combined((), inputs["models"], _factors(params.t, stats["grams"][tensor.name]))


def _factors(t: float, gram: Gram) -> tuple[float, float]:
    """Return the factors of the two models."""
    sizes = [math.sqrt(gram[i][i]) for i in (0, 1)]
    first_norm, second_norm = (size if size > NO_DIRECTION else 1.0 for size in sizes)
    cosine = gram[0][1] / first_norm / second_norm
    if abs(cosine) > NEARLY_PARALLEL:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
