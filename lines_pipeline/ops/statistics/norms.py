"""The sums that merges need of whole models."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Value, nonzero_count, running_sum, total
from lines_pipeline.ops.statistics.contract import Needs, PositionedStatistic, Reduced, Reductions, Statistic

NO_NORM = 1e-7
"""L1 norms below this are not restored."""


def exact_total(partials: Mapping[str, list[float]]) -> float:
    """Return the correctly rounded sum of all partials: it depends on neither their order nor their grouping.

    Raises ``CheckpointError`` naming a tensor whose values left the range of their type on the way.
    """
    for tensor, values in partials.items():
        if not all(map(math.isfinite, values)):
            raise CheckpointError(
                f"tensor '{tensor}': differences or sums of its values are too large for their type, so that the "
                "norm of the update is not finite; look for a damaged checkpoint with 'lines-pipeline inspect'"
            )
    return math.fsum(value for values in partials.values() for value in values)


def tensor_totals(partials: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Return correctly rounded sums by tensor, of partials that hold several numbers each."""
    return {name: [math.fsum(column) for column in zip(*blocks, strict=True)] for name, blocks in partials.items()}


def restoring(norms: Sequence[float]) -> float:
    """Return the factor that gives a tensor its L1 norm back, from that before and after: 1 where there is none."""
    before, after = norms
    return 1.0 if before < NO_NORM or after < NO_NORM else before / after


Norms = Mapping[str, list[float]]
"""By tensor name: the L1 norm before entries are dropped, and after."""


@dataclass(frozen=True)
class DroppingNorms(PositionedStatistic[tuple[float, float], Norms]):
    """Measures, by tensor, the L1 norm of the first value before entries are dropped, and after."""

    @abstractmethod
    def kept(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, position: int) -> Value:
        """Return the first value with zeros where entries are dropped."""

    def observe_at(
        self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None, position: int
    ) -> Reductions:
        return total(values[0].abs()), total(self.kept(values, tensor, needs, position).abs())

    def partial(self, *reduced: Reduced) -> tuple[float, float]:
        return reduced[0], reduced[1]

    def combine(
        self, partials: Mapping[str, list[tuple[float, float]]], numels: Mapping[str, int], state: None
    ) -> Norms:
        return tensor_totals(partials)


def rescaled(kept: Value, rescale: str, density: float, norms: Sequence[float] | None) -> Value:
    """Return what is kept of a tensor: as it is (``none``), over the density, or with the L1 norm from before."""
    if rescale == "none":
        return kept
    if rescale == "density":
        return kept / density
    assert norms is not None
    return kept * restoring(norms)


@dataclass(frozen=True)
class SumNorm(Statistic[float, float]):
    """L1 norm of the sum of the observed values over the whole model (of one value: its L1 norm)."""

    version = 2

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        return (total(running_sum(values).abs()),)

    def partial(self, *reduced: float) -> float:
        return reduced[0]

    def combine(self, partials: Mapping[str, list[float]], numels: Mapping[str, int], state: None) -> float:
        return exact_total(partials)


@dataclass(frozen=True)
class TensorNorms(Statistic[float, Mapping[str, float]]):
    """L1 norms of the sum of the observed values, by tensor."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        return (total(running_sum(values).abs()),)

    def partial(self, *reduced: float) -> float:
        return reduced[0]

    def combine(
        self, partials: Mapping[str, list[float]], numels: Mapping[str, int], state: None
    ) -> Mapping[str, float]:
        return {name: exact_total({name: blocks}) for name, blocks in partials.items()}


@dataclass(frozen=True)
class Norm(Statistic[float, float]):
    """L2 norm of the observed value over the whole model."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        return (total(values[0] * values[0]),)

    def partial(self, *reduced: float) -> float:
        return reduced[0]

    def combine(self, partials: Mapping[str, list[float]], numels: Mapping[str, int], state: None) -> float:
        return math.sqrt(exact_total(partials))


@dataclass(frozen=True)
class Count(Statistic[int, int]):
    """Counts the values that are set (a mask) or differ from zero."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        return (nonzero_count(values[0]),)

    def partial(self, *reduced: int) -> int:
        return reduced[0]

    def combine(self, partials: Mapping[str, list[int]], numels: Mapping[str, int], state: None) -> int:
        return sum(value for values in partials.values() for value in values)
