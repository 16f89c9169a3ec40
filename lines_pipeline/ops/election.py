"""The sign election of TIES over a whole model: which sign an entry takes whose trimmed sum is exactly zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.ops.base import Measure, Partials
from lines_pipeline.ops.measures import running_sum, threshold_of


@dataclass(frozen=True)
class Election:
    """Outcome: the sign of the sum of all signs, entries with sum zero, and entries kept by each trim."""

    majority: int
    zero_entries: int = 0
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class SignMajority(Measure):
    """Observes the task vectors; ``needs`` holds their trim thresholds (empty where nothing is trimmed)."""

    weights: tuple[float, ...]
    zero_differs: bool
    """Whether a majority of 0 gives another result than -1 (aggregation by ``max``)."""

    @property
    def hypotheses(self) -> tuple[Election, ...]:
        return tuple(Election(sign) for sign in ((1, -1, 0) if self.zero_differs else (1, -1)))

    def hypothesis(self, result: Any) -> int:
        if result.majority == 1:
            return 0
        return 2 if self.zero_differs and result.majority == 0 else 1

    def decode(self, result: Any) -> Election:
        return Election(result["majority"], result["zero_entries"], tuple(result["kept"]))

    def observe(self, values: Sequence[torch.Tensor], tensor: TensorSpec, needs: Sequence[Any], state: Any) -> Any:
        kept: list[int] = []
        trimmed: list[torch.Tensor] = []
        for index, value in enumerate(values):
            keep = value.abs() >= threshold_of(needs[index], tensor) if needs else None
            kept.append(value.numel() if keep is None else int(torch.count_nonzero(keep)))
            trimmed.append(value if keep is None else torch.where(keep, value, 0.0))
        total = running_sum(trimmed, self.weights)
        positive, nonzero = int(torch.count_nonzero(total > 0)), int(torch.count_nonzero(total))
        return (2 * positive - nonzero, total.numel() - nonzero, *kept)

    def finalize(self, partials: Partials, numels: Mapping[str, int], state: Any) -> Election:
        sums = [
            sum(column) for column in zip(*(block for blocks in partials.values() for block in blocks), strict=True)
        ]
        signs, zeros, kept = (sums[0], sums[1], tuple(sums[2:])) if sums else (0, 0, ())
        return Election((signs > 0) - (signs < 0), zeros, kept)
