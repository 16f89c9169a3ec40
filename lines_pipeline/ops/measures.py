"""The statistics that merges need of whole models: sums over values, and exact order statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.ops.base import Again, Measure, Partials
from lines_pipeline.ops.blocks import Value, nonzero_count, running_sum, total, within

_LARGE = 1e37
"""Twice as much is still a float32."""
SMALL_NUMEL = 2**20
"""Up to this many values the sweep keeps all magnitudes: no sample is drawn."""


def exact_total(partials: Mapping[str, list[float]]) -> float:
    """Correctly rounded sum of all partials: it depends on neither their order nor their grouping."""
    return math.fsum(value for values in partials.values() for value in values)


@dataclass(frozen=True)
class SumNorm(Measure):
    """L1 norm of the sum of the observed values over the whole model (of one value: its L1 norm)."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: Any) -> tuple[Any, ...]:
        return (total(running_sum(values).abs()),)

    def finalize(self, partials: Partials, numels: Mapping[str, int], state: Any) -> float:
        return exact_total(partials)


@dataclass(frozen=True)
class Count(Measure):
    """How many of the values are set (a mask) or differ from zero."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: Any) -> tuple[Any, ...]:
        return (nonzero_count(values[0]),)

    def finalize(self, partials: Partials, numels: Mapping[str, int], state: Any) -> int:
        return sum(value for values in partials.values() for value in values)


@dataclass(frozen=True)
class Thresholds:
    """Where a trim cuts: the smallest kept magnitude by tensor name (``""``: the whole model), and entries kept."""

    cuts: Mapping[str, float]
    kept: int

    def of(self, tensor: TensorSpec) -> float:
        """The threshold for one tensor."""
        return self.cuts[""] if "" in self.cuts else self.cuts.get(tensor.name, 0.0)


@dataclass(frozen=True)
class Bracket:
    """Closed interval that should hold the wanted magnitude; ``margin`` is its half width in quantiles."""

    low: float
    high: float
    margin: float


@dataclass(frozen=True)
class BracketCounts:
    """One block against a bracket: counts below and on the ends, and the magnitudes strictly inside."""

    below: int
    at_low: int
    inside: np.ndarray[Any, Any]
    at_high: int


@dataclass(frozen=True)
class TrimThreshold(Measure):
    """The magnitude at which a trim to ``density`` cuts: the (d - int(d * density))-th smallest of d.

    Exact, in one sweep: a sample brackets the quantile, the sweep counts below the bracket and keeps the few values
    inside. A bracket that missed is widened and swept again. ``scope`` is ``global`` (one threshold) or ``tensor``
    (one a tensor).
    """

    density: float
    scope: str

    @property
    def sampled(self) -> bool:
        return self.density < 1.0

    def wants_sample(self, numels: Mapping[str, int]) -> bool:
        return sum(numels.values()) > SMALL_NUMEL

    def prepare(self, sample: Mapping[str, list[Any]], numels: Mapping[str, int]) -> dict[str, Bracket]:
        return {
            group: _bracket(
                [run for name in names for run in sample.get(name, [])], self._rank(names, numels), names, numels
            )
            for group, names in _groups(self.scope, numels).items()
        }

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: Any) -> tuple[Any, ...]:
        bracket: Bracket = state["" if self.scope == "global" else tensor.name]
        return (within(values[0], bracket.low, bracket.high),)

    def partial(self, *reduced: Any) -> BracketCounts:
        return BracketCounts(*reduced[0])

    def finalize(self, partials: Partials, numels: Mapping[str, int], state: Any) -> Any:
        found: dict[str, float] = {}
        kept = 0
        widened: dict[str, Bracket] = {}
        for group, names in _groups(self.scope, numels).items():
            counts = [block for name in names for block in partials.get(name, [])]
            value = _select(counts, self._rank(names, numels), state[group])
            if value is None:
                widened[group] = state[group]
            else:
                found[group] = value
                kept += sum(numels[name] for name in names) - _smaller(counts, value, state[group])
        if widened:
            return Again({group: _wider(bracket, group in widened) for group, bracket in state.items()})
        return Thresholds(found, kept)

    def decode(self, result: Any) -> Thresholds:
        return Thresholds(result["cuts"], result["kept"])

    def _rank(self, names: Sequence[str], numels: Mapping[str, int]) -> int:
        total = sum(numels[name] for name in names)
        return total - int(total * self.density)


def _groups(scope: str, numels: Mapping[str, int]) -> dict[str, list[str]]:
    names = [name for name in sorted(numels) if numels[name]]
    return {"": names} if scope == "global" else {name: [name] for name in names}


def _bracket(runs: list[Any], rank: int, names: Sequence[str], numels: Mapping[str, int]) -> Bracket:
    """From runs of neighbouring magnitudes; neighbours are alike, so the error is taken from run to run."""
    total = sum(numels[name] for name in names)
    if total <= SMALL_NUMEL or not runs:
        return Bracket(0.0, math.inf, 1.0)
    values = np.sort(np.concatenate(runs))
    quantile = rank / total
    cut = values[min(int(quantile * len(values)), len(values) - 1)]
    shares = np.array([(run < cut).mean() for run in runs])
    margin = max(0.002, 5.0 * float(shares.std()) / math.sqrt(len(runs)))
    return _cut_bracket(values, quantile, margin)


def _cut_bracket(values: np.ndarray[Any, Any], quantile: float, margin: float) -> Bracket:
    last = len(values) - 1
    low, high = math.floor((quantile - margin) * last), math.ceil((quantile + margin) * last)
    return Bracket(float(values[low]) if low > 0 else 0.0, float(values[high]) if high < last else math.inf, margin)


def _wider(bracket: Bracket, missed: bool) -> Bracket:
    if not missed:
        return bracket
    high = bracket.high * 2 if bracket.high < _LARGE else math.inf
    return Bracket(bracket.low / 2, high, bracket.margin * 2)


def _select(counts: Sequence[BracketCounts], rank: int, bracket: Bracket) -> float | None:
    """The ``rank``-th smallest magnitude (from 1), or None where the bracket missed it."""
    left = max(rank, 1) - sum(block.below for block in counts)
    at_low, at_high = sum(block.at_low for block in counts), sum(block.at_high for block in counts)
    if left <= 0:
        return None
    if left <= at_low:
        return bracket.low
    inside = np.concatenate([block.inside for block in counts]) if counts else np.empty(0)
    left -= at_low
    if left <= len(inside):
        return float(np.partition(inside, left - 1)[left - 1])
    return bracket.high if left - len(inside) <= at_high else None


def _smaller(counts: Sequence[BracketCounts], value: float, bracket: Bracket) -> int:
    """How many magnitudes are below ``value``, which the bracket holds."""
    found = sum(block.below + int((block.inside < value).sum()) for block in counts)
    return found + (sum(block.at_low for block in counts) if value > bracket.low else 0)
