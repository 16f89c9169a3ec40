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


def units(gram: Gram) -> list[Coefficients]:
    """Return every vector divided by its norm; a vector of norm 0 stays as it is."""
    vectors = []
    for i in range(len(gram)):
        size = math.sqrt(gram[i][i])
        vectors.append([1.0 / size if i == j and size else float(i == j) for j in range(len(gram))])
    return vectors


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
