"""Inner products of models within each tensor: all that methods on spheres need to know before the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Value, total
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions, Statistic

Gram = list[list[float]]
"""Inner products of some values, a row a value."""
Grams = Mapping[str, Gram]
"""By tensor name."""


@dataclass(frozen=True)
class TensorGrams(Statistic[list[float], Grams]):
    """Measures, by tensor, the inner products of all values, or of their differences from the first of ``of``."""

    from_base: bool = False

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        vectors = [value - values[0] for value in values[1:]] if self.from_base else list(values)
        return tuple(
            total(vector * earlier) for index, vector in enumerate(vectors) for earlier in vectors[: index + 1]
        )

    def partial(self, *reduced: Reduced) -> list[float]:
        return list(reduced)

    def combine(self, partials: Mapping[str, list[list[float]]], numels: Mapping[str, int], state: None) -> Grams:
        grams = {}
        for name, blocks in partials.items():
            sums = [math.fsum(column) for column in zip(*blocks, strict=True)]
            count = (math.isqrt(8 * len(sums) + 1) - 1) // 2
            rows = [sums[i * (i + 1) // 2 : (i + 1) * (i + 2) // 2] for i in range(count)]
            grams[name] = [[rows[max(i, j)][min(i, j)] for j in range(count)] for i in range(count)]
        return grams
