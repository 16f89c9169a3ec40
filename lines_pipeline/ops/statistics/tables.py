"""Small values as they are: what an op has to know whole before it computes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.jit.boundary import Untraceable
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.statistics.contract import Needs, Reductions, Statistic

Table = Mapping[str, list[float]]
"""Entries by tensor name."""


@dataclass(frozen=True)
class Entries(Statistic[list[float], Table]):
    """Reads, by tensor, the entries of the one observed value, in order. It is for values of some kilobytes."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        value = values[0]
        if not isinstance(value, torch.Tensor):
            raise Untraceable("entries one by one")
        return tuple(value.tolist())

    def partial(self, *reduced: float) -> list[float]:
        return list(reduced)

    def combine(self, partials: Mapping[str, list[list[float]]], numels: Mapping[str, int], state: None) -> Table:
        return {name: list(chain.from_iterable(blocks)) for name, blocks in partials.items()}
