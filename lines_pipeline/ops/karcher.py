"""``karcher``: the point on a sphere that is nearest to all models' directions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import OpParams, Port, Values
from lines_pipeline.ops.kernels import Value
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


class KarcherParams(OpParams):
    max_iter: int = Field(10, description="Steps at most.", ge=1)
    tol: float = Field(1e-5, description="Angle, and norm, below which a step or a tensor counts as none.", gt=0)


class Karcher(SphereOp[KarcherParams]):
    """Steps along the mean of the arcs to all models until it is short; as long as the models are on average.

    A base counts as one model more. Zero tensors have no direction and are left out, except in the mean of norms.
    """

    name = "karcher"
    version = 2
    formula = "mean_i |theta_i| * u,  u <- exp_u(mean_i log_u(theta_i / |theta_i|))"
    source = "arcee-ai/mergekit, mergekit/merge_methods/karcher.py; Karcher, Comm. Pure Appl. Math. 30 (1977)"
    inputs = {"models": Port(EdgeType.WEIGHTS, many=True)}
    Params = KarcherParams

    def apply(self, params: KarcherParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Grams]) -> Value:
        count = len(inputs["models"])
        factors = _factors(params, stats["grams"][tensor.name]) if count > 1 else [1.0]
        return combined((), inputs["models"], factors)


def _factors(params: KarcherParams, gram: Gram) -> list[float]:
    """Return the factor of each model."""
    norms, angles = lengths(gram), cosines(gram)
    directions = [unit for unit, norm in zip(units(len(gram)), norms, strict=True) if norm > params.tol]
    if not directions:
        return [0.0] * len(gram)
    share = 1.0 / len(directions)
    mean = combination([(share, unit) for unit in directions])
    size = length(mean, angles)
    mean = directions[0] if size < params.tol else [factor / size for factor in mean]
    for _ in range(params.max_iter):
        step = _step(mean, directions, angles, params.tol)
        angle = length(step, angles)
        if angle < params.tol:
            break
        mean = combination([(math.cos(angle), mean), (math.sin(angle) / angle, step)])
        size = length(mean, angles)
        mean = [factor / size for factor in mean]
    return of_vectors([math.fsum(norms) / len(norms) * factor for factor in mean], norms)


def _step(mean: list[float], directions: list[list[float]], angles: Gram, tol: float) -> list[float]:
    """Return the mean of the arcs from ``mean`` to all directions, of which an opposite one has no arc of its own."""
    parts = [(0.0, mean)]
    for unit in directions:
        cosine = min(max(inner(mean, unit, angles), -1.0), 1.0)
        angle = math.acos(cosine)
        if tol <= angle <= math.pi - tol:
            factor = angle / math.sin(angle) / len(directions)
            parts += [(factor, unit), (-factor * cosine, mean)]
    return combination(parts)
