"""The magnitude from which on entries hold a share of the squared norm, of a tensor or of a whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Block, Value, keep_from
from lines_pipeline.ops.statistics.contract import Needs, Retry
from lines_pipeline.ops.statistics.digits import NOTHING, Array, Counted, Prefixes, SelectedValue
from lines_pipeline.ops.statistics.thresholds import groups


@dataclass(frozen=True)
class NormFraction(SelectedValue):
    """Finds the magnitude by tensor (or ``""``), 0 without a norm, with tensor and position of the last entry."""

    fraction: float
    descending = True

    def derived(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs) -> Block:
        return values[0].abs()

    def weigh(self, values: Array) -> Array:
        return values * values

    def goal(self, count: int, marked: int, weight: float) -> float:
        return self.fraction * weight

    def combine(self, partials: Mapping[str, list[Counted]], numels: Mapping[str, int], state: Prefixes) -> Any:
        cuts = super().combine(partials, numels, state)
        if isinstance(cuts, Retry):
            return cuts
        last = {group: names[-1] for group, names in groups(self.scope, numels).items() if names}
        return {
            group: [0.0 if value == NOTHING else value, last[group], numels[last[group]] - 1]
            for group, value in cuts.items()
            if group in last
        }


def keep_fraction(value: Block, cuts: Mapping[str, Sequence[Any]], tensor: TensorSpec, position: int) -> Block:
    """Return ``value`` with zeros below the cut, but for the last entry of all."""
    cut, name, last = cuts["" if "" in cuts else tensor.name]
    kept: Block = keep_from(value, cut)
    if name != tensor.name or not 0 <= last - position < tensor.numel:
        return kept
    positions = torch.arange(position, position + value.numel(), device=value.device)
    return torch.where(positions == last, value, kept)
