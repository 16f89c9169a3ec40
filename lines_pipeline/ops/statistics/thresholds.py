"""The exact magnitude at which a trim cuts, over whole models, in one sweep and little memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Value, within
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions, Remembered, Retry, Sample, Statistic

SMALL_NUMEL = 2**20
"""Up to this many values the sweep keeps all magnitudes: no sample is drawn."""
LARGE_NUMEL = 1e8
"""From this many values on, samples grow and margins shrink with the root of a model's size."""
SAMPLE_RUNS = {"global": 512, "tensor": 4096}
"""Runs in a sample, by scope: of one tensor too it should have some."""
MAX_MARGIN = {"global": 0.01, "tensor": 0.03}
"""Half the share of values that a bracket may hold, by scope: these are kept in memory."""
FEW_RUNS = 8
"""Fewer runs do not tell how far they are off."""
QUANTILES = 257
"""Points that are kept of a sample at least; of a large one, every 128th magnitude."""


@dataclass(frozen=True)
class Thresholds:
    """Holds where a trim cuts, by tensor name (``""``: whole model): the smallest kept magnitude, and entries kept."""

    cuts: Mapping[str, float]
    kept: int

    def of(self, tensor: TensorSpec) -> float:
        """Return the threshold for one tensor."""
        return self.cuts[""] if "" in self.cuts else self.cuts.get(tensor.name, 0.0)


@dataclass(frozen=True, eq=False)
class Bracket:
    """Closed interval that should hold the wanted magnitude; ``margin`` is its half width in quantiles.

    ``points`` are magnitudes of the sample at evenly spaced quantiles, to find another interval where this one misses.
    """

    low: float
    high: float
    margin: float
    points: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(2))


@dataclass(frozen=True)
class BracketCounts:
    """Counts one block against a bracket: below, on the ends, and the magnitudes strictly inside."""

    below: int
    at_low: int
    inside: np.ndarray[Any, Any]
    at_high: int


Brackets = Mapping[str, Bracket]
"""By tensor name, or for the whole model (``""``)."""


@dataclass(frozen=True)
class TrimThreshold(Statistic[BracketCounts, Thresholds, Brackets]):
    """The magnitude at which a trim to ``density`` cuts: the (d - int(d * density))-th smallest of d.

    Exact, in one sweep: a sample brackets the quantile, the sweep counts below the bracket and keeps the few values
    inside. A bracket that missed is moved and swept again. ``scope`` is ``global`` (one threshold) or ``tensor``
    (one a tensor).
    """

    density: float
    scope: str
    narrowing: float = field(default=1.0, compare=False, kw_only=True)
    """By what brackets are narrower than ``MAX_MARGIN`` allows: they keep less, and miss more often."""

    @property
    def sampled(self) -> bool:
        return self.density < 1.0

    def sample_runs(self, numels: Mapping[str, int]) -> int:
        total = sum(numels.values())
        runs = SAMPLE_RUNS[self.scope] * max(1.0, math.sqrt(total / LARGE_NUMEL))
        return int(runs) if total > SMALL_NUMEL else 0

    def prepare(self, sample: Sample, numels: Mapping[str, int]) -> Brackets:
        brackets: dict[str, Bracket] = {}
        for group, names in groups(self.scope, numels).items():
            rank, total = self._rank(names, numels)
            runs = [run for name in names for run in sample.get(name, [])] if total > self._small(numels) else []
            brackets[group] = _bracket(runs, rank, total, self._max_margin(sum(numels.values())))
        return brackets

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: Brackets) -> Reductions:
        bracket = state["" if self.scope == "global" else tensor.name]
        return (within(values[0], bracket.low, bracket.high),)

    def partial(self, *reduced: Reduced) -> BracketCounts:
        return BracketCounts(*reduced[0])

    def combine(
        self, partials: Mapping[str, list[BracketCounts]], numels: Mapping[str, int], state: Brackets
    ) -> Thresholds | Retry[Brackets]:
        cuts: dict[str, float] = {}
        kept = 0
        brackets: dict[str, Bracket] = {}
        for group, names in groups(self.scope, numels).items():
            counts = [block for name in names for block in partials.get(name, [])]
            rank, total = self._rank(names, numels)
            value = _select(counts, rank, state[group]) if total else 0.0  # of nothing, everything is kept
            if value is None:
                brackets[group] = _moved(state[group], counts, rank, total)
            else:
                _require_finite(value, names)
                cuts[group] = value
                kept += total - _smaller(counts, value, state[group])
        return Retry({**state, **brackets}) if brackets else Thresholds(cuts, kept)

    def decode(self, result: Remembered) -> Thresholds:
        return Thresholds(result["cuts"], result["kept"])

    def _rank(self, names: Sequence[str], numels: Mapping[str, int]) -> tuple[int, int]:
        """Return the rank of the threshold (from 1), and how many magnitudes there are."""
        total = sum(numels[name] for name in names)
        return max(total - int(total * self.density), 1), total

    def narrowed(self, factor: float) -> Self:
        return replace(self, narrowing=self.narrowing * factor)

    def kept_bytes(self, numels: Mapping[str, int], item_bytes: int) -> int:
        return item_bytes * self.kept_numel(numels)

    def kept_numel(self, numels: Mapping[str, int]) -> int:
        """Return how many magnitudes a sweep keeps at most, of values of this many entries by tensor."""
        whole = sum(numels.values())
        widened = 1.0 if self.narrowing == 1.0 else 2.0  # narrow ones often miss, and are then twice as wide
        share = 2.0 * self._max_margin(whole) * widened if self.sample_runs(numels) else 1.0
        totals = [self._rank(names, numels)[1] for names in groups(self.scope, numels).values()]
        return sum(total if total <= self._small(numels) else int(share * total) for total in totals)

    def _small(self, numels: Mapping[str, int]) -> int:
        """Return up to how many values of a threshold all are kept: a sample tells too little of them."""
        runs = self.sample_runs(numels)
        return FEW_RUNS * sum(numels.values()) // runs if runs else SMALL_NUMEL

    def _max_margin(self, total: int) -> float:
        """Return half the share of a model's ``total`` values that brackets may hold: less of larger models."""
        return MAX_MARGIN[self.scope] * min(1.0, math.sqrt(LARGE_NUMEL / max(total, 1))) / self.narrowing


def _require_finite(threshold: float, names: Sequence[str]) -> None:
    """Refuse a trim that would keep nothing but differences that are Inf."""
    if not math.isfinite(threshold):
        which = f"tensor '{names[0]}'" if len(names) == 1 else f"{len(names)} tensors"
        raise CheckpointError(
            f"{which}: differences or sums of values are too large for their type, so that a trim has no threshold; "
            "look for a damaged checkpoint with 'lines-pipeline inspect'"
        )


def groups(scope: str, numels: Mapping[str, int]) -> dict[str, list[str]]:
    """Yield the tensors that each threshold is for, in order: all of them (``""``), or one by one."""
    names = [name for name in sorted(numels) if numels[name]]
    return {"": names} if scope == "global" else {name: [name] for name in names}


def _bracket(runs: list[Any], rank: int, total: int, most: float) -> Bracket:
    """Return a bracket from runs of neighbouring magnitudes, in order: their differences tell its error."""
    if not runs:
        return Bracket(0.0, math.inf, 1.0)
    values = np.sort(np.concatenate(runs))
    points = values[np.linspace(0, len(values) - 1, min(len(values), max(QUANTILES, len(values) // 128))).astype(int)]
    quantile = rank / total
    cut = values[min(int(quantile * len(values)), len(values) - 1)]
    if len(runs) < FEW_RUNS:
        return _around(points, quantile, most)
    steps = np.diff([float((run < cut).mean()) for run in runs])
    error = math.sqrt(float((steps**2).sum()) / 2.0 / len(steps) / len(runs))
    return _around(points, quantile, min(max(4.0 * error, most / 5.0), most))


def _around(points: np.ndarray[Any, Any], quantile: float, margin: float) -> Bracket:
    last = len(points) - 1
    low, high = math.floor((quantile - margin) * last), math.ceil((quantile + margin) * last)
    low_end = float(points[min(low, last)]) if low > 0 else 0.0
    return Bracket(low_end, float(points[max(high, 0)]) if high < last else math.inf, margin, points)


def _moved(bracket: Bracket, counts: Sequence[BracketCounts], rank: int, total: int) -> Bracket:
    """Return a wider bracket on the side where the magnitude is, as far off as the counts say."""
    below = sum(block.below for block in counts)
    upto = below + _above_low(counts, bracket) + sum(block.at_low + len(block.inside) for block in counts)
    side, end, reached = ("left", bracket.low, below) if rank <= below else ("right", bracket.high, upto)
    start = float(np.searchsorted(bracket.points, end, side)) / max(len(bracket.points) - 1, 1)  # type: ignore[call-overload]
    around = _around(bracket.points, start + (rank - reached) / total, 2.0 * bracket.margin)
    if rank <= below:
        return replace(around, high=min(around.high, bracket.low), low=min(around.low, bracket.low))
    return replace(around, low=max(around.low, bracket.high), high=max(around.high, bracket.high))


def _select(counts: Sequence[BracketCounts], rank: int, bracket: Bracket) -> float | None:
    """Return the ``rank``-th smallest magnitude (from 1), or None where the bracket missed it."""
    number = rank - sum(block.below for block in counts)
    at_low, at_high = sum(block.at_low for block in counts), _above_low(counts, bracket)
    if number <= 0:
        return None
    if number <= at_low:
        return bracket.low
    inside = np.concatenate([block.inside for block in counts]) if counts else np.empty(0)
    number -= at_low
    if number <= len(inside):
        return float(np.partition(inside, number - 1)[number - 1])
    return bracket.high if number - len(inside) <= at_high else None


def _above_low(counts: Sequence[BracketCounts], bracket: Bracket) -> int:
    """Return how many magnitudes lie on the upper end, where that is not the lower one too."""
    return sum(block.at_high for block in counts) if bracket.high > bracket.low else 0


def _smaller(counts: Sequence[BracketCounts], value: float, bracket: Bracket) -> int:
    """Return how many magnitudes are below ``value``, which the bracket holds."""
    number = sum(block.below + int((block.inside < value).sum()) for block in counts)
    return number + (sum(block.at_low for block in counts) if value > bracket.low else 0)
