"""The sign election of TIES over a whole model: which sign an entry takes whose trimmed sum is exactly zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Value, add_kept, nonzero_count, total, zeros_like
from lines_pipeline.ops.statistics.contract import Reductions, Statistic
from lines_pipeline.ops.statistics.thresholds import Thresholds


@dataclass(frozen=True)
class Election:
    """Outcome: the sign of the sum of all signs, and how many entries have sum zero."""

    majority: int
    zero_entries: int = 0


Ballots = tuple[int, int, bool]
"""Of a block: the sum of signs, entries with a sign, and whether others have anything but zeros to sum."""


@dataclass(frozen=True)
class SignMajority(Statistic[Ballots, Election]):
    """Observes the task vectors; ``needs`` holds their trim thresholds (empty where nothing is trimmed)."""

    weights: tuple[float, ...]
    zero_differs: bool
    """Whether a majority of 0 gives another result than -1 (aggregation by ``max``)."""

    @property
    def outcomes(self) -> tuple[Election, ...]:
        return tuple(Election(sign) for sign in ((1, -1, 0) if self.zero_differs else (1, -1)))

    def outcome(self, result: object) -> int:
        assert isinstance(result, Election)
        if result.majority == 1:
            return 0
        return 2 if self.zero_differs and result.majority == 0 else 1

    def decode(self, result: Any) -> Election:
        return Election(result["majority"], result["zero_entries"])

    def affects(self, partial: Ballots) -> bool:
        return partial[2]

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[object], state: None) -> Reductions:
        thresholds = [need.of(tensor) for need in needs if isinstance(need, Thresholds)] or [0.0] * len(values)
        sums = entries = zeros_like(values[0])
        for value, threshold, weight in zip(values, thresholds, self.weights, strict=True):
            sums, entries = add_kept(sums, entries, value, threshold, weight)
        signs = sums.sign()
        return total(signs), nonzero_count(signs), nonzero_count(entries)

    def partial(self, *reduced: Any) -> Ballots:
        signs, elected, marked = reduced
        total = int(signs) if math.isfinite(signs) else 0  # where sums overflow, the result is refused
        return total, elected, elected < marked

    def combine(self, partials: Mapping[str, list[Ballots]], numels: Mapping[str, int], state: None) -> Election:
        blocks = [block for found in partials.values() for block in found]
        signs, elected = sum(block[0] for block in blocks), sum(block[1] for block in blocks)
        return Election((signs > 0) - (signs < 0), sum(numels.values()) - elected)
