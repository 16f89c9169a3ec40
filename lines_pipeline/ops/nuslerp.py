"""``nuslerp``: spherical interpolation with weights, of models or of task vectors, whole or row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.base import Granularity, OpParams, Values
from lines_pipeline.ops.kernels import Block, Value
from lines_pipeline.ops.spheres import PARALLEL, SphereOp, combined
from lines_pipeline.ops.statistics.gram import Grams

SMALLEST_NORM, NO_WEIGHT = 1e-7, 1e-6
"""Norms are at least the first; sums of weights below the second count as 0."""


class NuslerpParams(OpParams):
    weights: tuple[float, ...] = Field((1.0,), description="Weight of each model: number, list or map by item.")
    flatten: bool = Field(True, description="Take each tensor as one vector.")
    row_wise: bool = Field(
        False,
        description="Without 'flatten': vectors along the first axis, as the source's row_wise, not along the last.",
    )

    @property
    def t(self) -> float:
        """Return how far to go from the first model to the second."""
        whole = sum(self.weights)
        return 0.5 if abs(whole) < NO_WEIGHT else self.weights[1] / whole


class Nuslerp(SphereOp[NuslerpParams]):
    """Goes the second weight's share of the arc; a line where vectors are parallel or opposite, up to rounding."""

    name = "nuslerp"
    version = 2
    formula = "(sin((1 - t) a) v_1 + sin(t a) v_2) / sin(a), t = w_2 / (w_1 + w_2), v = theta or theta - theta_0"
    source = "arcee-ai/mergekit, mergekit/merge_methods/nuslerp.py"
    per_item = {"weights": "models"}
    granularity = Granularity.TENSOR
    Params = NuslerpParams

    def check(self, params: NuslerpParams, counts: Mapping[str, int]) -> str | None:
        if params.flatten and params.row_wise:
            return "'row_wise' needs 'flatten: false'"
        return None if counts["models"] == 2 else f"'models' takes two models, got {counts['models']}"

    def breaks_pipeline(self, params: NuslerpParams) -> bool:
        return not params.flatten

    def wants_whole(self, params: NuslerpParams, tensor: TensorSpec) -> bool:
        return not params.flatten and len(tensor.shape) > 1

    def working_bytes(self, params: NuslerpParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 6 * 8 * tensor.numel

    def apply(self, params: NuslerpParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Grams]) -> Value:
        if self.wants_whole(params, tensor):
            base: Block = inputs["base"][0] if inputs["base"] else None
            models: Sequence[Block] = inputs["models"]
            vectors = [value if base is None else value - base for value in models]
            first, second = (vector.reshape(tensor.shape) for vector in vectors)
            moved: Block = _along(params.t, first, second, 0 if params.row_wise else -1).reshape(-1)
            result: Value = moved if base is None else base + moved
            return result
        (first_square, product), (_, second_square) = stats["grams"][tensor.name]
        first_norm, second_norm = (max(math.sqrt(square), SMALLEST_NORM) for square in (first_square, second_square))
        return combined(inputs["base"], inputs["models"], _factors(params.t, product / first_norm / second_norm))


def _factors(t: float, cosine: float) -> tuple[float, float]:
    """Return the factors of two vectors."""
    if abs(cosine) > 1.0 - PARALLEL:
        return 1.0 - t, t
    angle = math.acos(cosine)
    sine = math.sin(angle)
    return math.sin((1.0 - t) * angle) / sine, math.sin(t * angle) / sine


def _along(t: float, start: torch.Tensor, end: torch.Tensor, axis: int) -> torch.Tensor:
    """Interpolate the vectors along an axis, each by its own angle."""
    norms = [value.double().norm(dim=axis, keepdim=True).clamp(min=SMALLEST_NORM) for value in (start, end)]
    cosine = (start / norms[0] * (end / norms[1])).sum(dim=axis, keepdim=True)
    parallel = cosine.abs() > 1.0 - PARALLEL
    angle = cosine.clamp(-1, 1).acos()
    sine = torch.where(parallel, 1.0, angle.sin())
    first = torch.where(parallel, 1.0 - t, ((1.0 - t) * angle).sin() / sine)
    second = torch.where(parallel, t, (t * angle).sin() / sine)
    return (first * start + second * end).to(start.dtype)
