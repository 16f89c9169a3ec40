"""The sign election of TIES over a whole model: which sign an entry takes whose trimmed sum is exactly zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.ops.base import Measure, Partials
from lines_pipeline.ops.measures import keep_from, nonzero_count, running_sum


@dataclass(frozen=True)
class Election:
    """Outcome: the sign of the sum of all signs, and how many entries have sum zero."""

    majority: int
    zero_entries: int = 0


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
        return Election(result["majority"], result["zero_entries"])

    def matters(self, partial: tuple[int, int, bool]) -> bool:
        return partial[2]

    def observe(
        self, values: Sequence[torch.Tensor], tensor: TensorSpec, needs: Sequence[Any], state: Any
    ) -> tuple[int, int, bool]:
        """Sum of signs, entries of sum zero, and whether some of these have anything but zeros to sum."""
        thresholds = needs or [None] * len(values)
        kept = [v if t is None else keep_from(v, t.of(tensor)) for v, t in zip(values, thresholds, strict=True)]
        signs = running_sum(kept, self.weights).sign_()
        total = int(signs.sum())
        elected = int(signs.abs_().sum())
        return total, signs.numel() - elected, elected < _filled(kept)

    def finalize(self, partials: Partials, numels: Mapping[str, int], state: Any) -> Election:
        blocks = [block for found in partials.values() for block in found]
        signs, zeros = sum(block[0] for block in blocks), sum(block[1] for block in blocks)
        return Election((signs > 0) - (signs < 0), zeros)


def _filled(values: Sequence[torch.Tensor]) -> int:
    """How many entries differ from zero in any of the values: their bits are joined, which is fast and exact."""
    bits = torch.int64 if values[0].dtype == torch.float64 else torch.int32
    joined = values[0].view(bits).clone()
    for value in values[1:]:
        joined |= value.view(bits)
    return nonzero_count(joined)
