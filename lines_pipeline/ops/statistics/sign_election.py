"""The sign election of TIES: which sign each entry takes, and which one where that does not tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Value, add_kept, keep_from, larger, nonzero_count, total, zeros_like
from lines_pipeline.ops.statistics.contract import Needs, PositionedStatistic, Reduced, Reductions, Remembered
from lines_pipeline.ops.statistics.norms import exact_total
from lines_pipeline.ops.statistics.ranks import trimmed

Kept = Sequence[tuple[Value, float, float]]
"""Task vectors, each with the magnitude from which on it is kept, and its weight."""
Electing = Literal["mass", "norm-mass", "norm-fraction"]


@dataclass(frozen=True)
class Election:
    """Holds the sign of the sum of all signs, and how many entries have sum zero."""

    majority: int
    zero_entries: int = 0


Ballots = tuple[int, int, bool]
"""Of a block: the sum of signs, entries with a sign, and whether others have anything but zeros to sum."""


@dataclass(frozen=True)
class KeptSquares(PositionedStatistic[float, float]):
    """Squared norm of a task vector over the whole model, trimmed by the threshold that is in ``needs``, if one is."""

    def observe_at(
        self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None, position: int
    ) -> Reductions:
        kept = keep_from(*trimmed(values[0], needs[0] if needs else None, tensor, position))
        return (total(kept * kept),)

    def partial(self, *reduced: float) -> float:
        return reduced[0]

    def combine(self, partials: Mapping[str, list[float]], numels: Mapping[str, int], state: None) -> float:
        return exact_total(partials)


def elected(kept: Kept, squares: Sequence[float]) -> tuple[Value, Value]:
    """Return numbers with the elected signs, and of how many task vectors; ``squares`` are empty for mass.

    Where they are given, each vector counts by the share that an entry has of its squared norm.
    """
    sums = count = zeros_like(kept[0][0])
    if not squares:
        for value, threshold, weight in kept:
            sums, count = add_kept(sums, count, value, threshold, weight)
        return sums, count
    for (value, threshold, weight), square in zip(kept, squares, strict=True):
        entries = keep_from(value, threshold)
        sums = sums + entries * entries.abs() * (math.copysign(1.0, weight) / square if square and weight else 0.0)
        count = count + entries.abs().sign()
    return sums, count


def elected_by_largest(kept: Kept, squares: Sequence[float]) -> tuple[Value, Value]:
    """Return the sign of the entry with the largest share of its vector's squared norm (of equals the first)."""
    signs = count = best = zeros_like(kept[0][0])
    for (value, threshold, weight), square in zip(kept, squares, strict=True):
        entries = keep_from(value, threshold)
        share = entries * entries * (1.0 / square if square and weight else 0.0)
        wins = share > best
        signs = signs - signs * wins + entries.sign() * wins * math.copysign(1.0, weight)
        best, count = larger(share, best), count + entries.abs().sign()
    return signs, count


@dataclass(frozen=True)
class SignMajority(PositionedStatistic[Ballots, Election]):
    """Observes the task vectors; ``needs`` holds the thresholds of those that are trimmed, then the squared norms."""

    weights: tuple[float, ...]
    zero_differs: bool
    """Whether a majority of 0 gives another result than -1 (aggregation by ``max``)."""
    trims: tuple[bool, ...] = ()
    """Which of the task vectors are trimmed; empty for none."""
    electing: Electing = "mass"

    @property
    def outcomes(self) -> tuple[Election, ...]:
        return tuple(Election(sign) for sign in ((1, -1, 0) if self.zero_differs else (1, -1)))

    def outcome(self, result: object) -> int:
        assert isinstance(result, Election)
        if result.majority == 1:
            return 0
        return 2 if self.zero_differs and result.majority == 0 else 1

    def decode(self, result: Remembered) -> Election:
        return Election(result["majority"], result["zero_entries"])

    def affects(self, partial: Ballots) -> bool:
        return partial[2]

    def observe_at(
        self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None, position: int
    ) -> Reductions:
        sums, entries = by_sign(*self._kept(values, tensor, needs, position), self.electing)
        signs = sums.sign()
        return total(signs), nonzero_count(signs), nonzero_count(entries)

    def _kept(
        self, deltas: Sequence[Value], tensor: TensorSpec, needs: Needs, position: int
    ) -> tuple[Kept, Sequence[float]]:
        """Return the task vectors with their thresholds and weights, and the squared norms."""
        results = iter(needs)
        thresholds = [next(results) if trims else None for trims in self.trims or [False] * len(deltas)]
        pairs = [
            trimmed(delta, threshold, tensor, position) for delta, threshold in zip(deltas, thresholds, strict=True)
        ]
        return [(*pair, weight) for pair, weight in zip(pairs, self.weights, strict=True)], list(results)

    def partial(self, *reduced: Reduced) -> Ballots:
        signs, decided, marked = reduced
        whole = int(signs) if math.isfinite(signs) else 0  # where sums overflow, the result is refused
        return whole, decided, decided < marked

    def combine(self, partials: Mapping[str, list[Ballots]], numels: Mapping[str, int], state: None) -> Election:
        blocks = [block for of_tensor in partials.values() for block in of_tensor]
        signs, decided = sum(block[0] for block in blocks), sum(block[1] for block in blocks)
        return Election((signs > 0) - (signs < 0), sum(numels.values()) - decided)


def by_sign(kept: Kept, squares: Sequence[float], electing: Electing) -> tuple[Value, Value]:
    """Return numbers with the elected signs, and of how many task vectors."""
    return elected_by_largest(kept, squares) if electing == "norm-fraction" else elected(kept, squares)
