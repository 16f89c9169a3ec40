"""Mean and sample standard deviation of a tensor, or of a whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Value, exceeds, total
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions, Statistic
from lines_pipeline.ops.statistics.thresholds import groups

Spreads = Mapping[str, Sequence[float]]
"""Mean and standard deviation by tensor name (``""``: the whole model)."""


@dataclass(frozen=True)
class Spread(Statistic[tuple[float, float], Spreads]):
    """Mean and sample standard deviation (0 of a single entry); ``scope`` is ``global`` or ``tensor``."""

    scope: str

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        return total(values[0]), total(values[0] * values[0])

    def partial(self, *reduced: Reduced) -> tuple[float, float]:
        return reduced[0], reduced[1]

    def combine(
        self, partials: Mapping[str, list[tuple[float, float]]], numels: Mapping[str, int], state: None
    ) -> Spreads:
        spreads = {}
        for group, names in groups(self.scope, numels).items():
            blocks = [block for name in names for block in partials.get(name, [])]
            count = sum(numels[name] for name in names)
            whole, squares = math.fsum(total for total, _ in blocks), math.fsum(square for _, square in blocks)
            mean = whole / max(count, 1)
            spreads[group] = [mean, math.sqrt(max(squares - count * mean * mean, 0.0) / max(count - 1, 1))]
        return spreads


def far_from_mean(value: Value, spreads: Spreads, deviations: float, tensor: TensorSpec) -> Value:
    """Return where entries are further from the mean than so many standard deviations."""
    mean, deviation = spreads["" if "" in spreads else tensor.name]
    return exceeds((value + -mean).abs(), deviations * deviation)
