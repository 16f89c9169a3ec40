"""``multislerp``: the weighted mean of several models' directions, reached over a tangent plane."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.base import OpParams, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.shares import cancel_out
from lines_pipeline.ops.spheres import (
    SphereOp,
    combination,
    combined,
    cosines,
    inner,
    length,
    lengths,
    of_vectors,
    units,
)
from lines_pipeline.ops.statistics.gram import Gram, Grams

SMALLEST_NORM = 1e-8
"""A mean of unit vectors that is shorter has no direction; added to the angle."""


class MultislerpParams(OpParams):
    weights: tuple[float, ...] = Field((1.0,), description="Weight of each model: number, list or map by item.")
    normalize: bool = Field(True, description="Divide the weights by their sum.")


class Multislerp(SphereOp[MultislerpParams]):
    """Goes from the mean direction along the weighted mean of the tangents; as long as the models are on average.

    The tangents are projections, not arcs: this is not the Karcher mean (``karcher``). Where task vectors are all zero
    the result is the base, which the source reaches for two models only. Single numbers whose directions cancel out
    have their weighted mean.
    """

    name = "multislerp"
    version = 2
    formula = "r exp_mu(sum_i w_i (u_i - (u_i mu) mu)),  u_i = v_i / |v_i|, mu ~ sum_i w_i u_i, r = sum_i w_i |v_i|"
    source = "goddard.blog, Multi-SLERP; arcee-ai/mergekit, mergekit/merge_methods/multislerp.py"
    per_item = {"weights": "models"}
    Params = MultislerpParams

    def check(self, params: MultislerpParams, counts: Mapping[str, int]) -> str | None:
        cancelling = params.normalize and cancel_out(params.weights)
        return "'normalize' cannot divide by weights of sum 0" if cancelling else None

    def apply(self, params: MultislerpParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Grams]) -> Value:
        whole = sum(params.weights) if params.normalize else 1.0
        weights = [weight / whole for weight in params.weights]
        factors = _factors(weights, stats["grams"][tensor.name], tensor) if len(weights) > 1 else [1.0]
        return combined(inputs["base"], inputs["models"], factors)


def _factors(weights: list[float], gram: Gram, tensor: TensorSpec) -> list[float]:
    """Return the factor of each vector."""
    sizes, angles = lengths(gram), cosines(gram)
    size = length(weights, angles)
    if size < SMALLEST_NORM:
        if len(weights) > 2 and tensor.numel > 1 and any(sizes):
            raise CheckpointError(
                f"tensor '{tensor.name}': the weighted directions of the models cancel out, so that there is no mean "
                "direction; take other weights"
            )
        return weights
    mean = [weight / size for weight in weights]
    flat = [combination([(1.0, unit), (-inner(unit, mean, angles), mean)]) for unit in units(len(gram))]
    tangent = combination(list(zip(weights, flat, strict=True)))
    angle = length(tangent, angles) + SMALLEST_NORM
    radius = math.fsum(weight * norm for weight, norm in zip(weights, sizes, strict=True))
    reached = combination([(radius * math.cos(angle), mean), (radius * math.sin(angle) / angle, tangent)])
    return of_vectors(reached, sizes)
