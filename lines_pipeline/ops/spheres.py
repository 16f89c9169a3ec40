"""What methods on spheres have in common: vectors written as coefficients of the models, with known inner products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, Port
from lines_pipeline.ops.kernels import Value, running_sum
from lines_pipeline.ops.roles import P
from lines_pipeline.ops.statistics.gram import Gram, Grams, TensorGrams

PARALLEL = 2.4e-7
"""Cosines nearer to 1 or -1, which products in float32 do not tell from these, count as these."""

Coefficients = list[float]
"""A vector as a combination of the models (or task vectors) of a tensor."""


def inner(first: Sequence[float], second: Sequence[float], gram: Gram) -> float:
    """Return the inner product of two combinations."""
    return math.fsum(a * b * gram[i][j] for i, a in enumerate(first) if a for j, b in enumerate(second) if b)


def length(vector: Sequence[float], gram: Gram) -> float:
    """Return the euclidean norm of a combination."""
    return math.sqrt(max(inner(vector, vector, gram), 0.0))


def combination(parts: Sequence[tuple[float, Sequence[float]]]) -> Coefficients:
    """Sum of combinations, each with its factor."""
    return [math.fsum(factor * vector[i] for factor, vector in parts) for i in range(len(parts[0][1]))]


def lengths(gram: Gram) -> list[float]:
    """Return the norm of every vector."""
    return [math.sqrt(gram[i][i]) for i in range(len(gram))]


def cosines(gram: Gram) -> Gram:
    """Return the inner products of the vectors' directions: 0 where a vector has norm 0."""
    sizes = lengths(gram)
    return [
        [_cosine(row[j] / size / sizes[j] if i != j else 1.0) if size and sizes[j] else 0.0 for j in range(len(gram))]
        for i, (row, size) in enumerate(zip(gram, sizes, strict=True))
    ]


def _cosine(value: float) -> float:
    return math.copysign(1.0, value) if abs(value) > 1.0 - PARALLEL else value


def units(count: int) -> list[Coefficients]:
    """Return so many directions as combinations of themselves."""
    return [[float(i == j) for j in range(count)] for i in range(count)]


def of_vectors(directions: Sequence[float], sizes: Sequence[float]) -> Coefficients:
    """Return a combination of directions as one of vectors of these norms."""
    return [factor / size if size else 0.0 for factor, size in zip(directions, sizes, strict=True)]


class SphereOp(Op[P, Grams], Generic[P]):
    """A method that combines models with factors that depend on the angles between them, tensor by tensor.

    With a ``base`` the angles are those between task vectors.
    """

    gives = EdgeType.WEIGHTS
    inputs = {"base": Port(EdgeType.WEIGHTS, optional=True, followed=True), "models": Port(EdgeType.WEIGHTS, many=True)}

    def statistics(self, params: P, inputs: Ids, step: str) -> dict[str, TensorGrams]:
        base = inputs.get("base", ())
        return {"grams": TensorGrams((*base, *inputs["models"]), from_base=bool(base))}


def combined(base: Sequence[Value], models: Sequence[Value], factors: Sequence[float]) -> Value:
    """Return the combination of models, or of their differences from a base that is then added."""
    if not base:
        return running_sum(models, factors)
    return base[0] + running_sum([model - base[0] for model in models], factors)
