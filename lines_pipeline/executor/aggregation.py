"""Turns what tasks observed into results: samples, brackets, sums, and assumptions that came true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.ops.base import AnyStatistic, Statistic
from lines_pipeline.ops.kernels import Value, within
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions
from lines_pipeline.planner.tasks import Observation

Magnitudes = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample(Statistic[Magnitudes, Mapping[str, list[Magnitudes]]]):
    """Magnitudes of the first observed value, in no particular order."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: None) -> Reductions:
        return (within(values[0], 0.0, math.inf),)

    def partial(self, *reduced: Reduced) -> Magnitudes:
        ((_, zeros, magnitudes, _),) = reduced
        return np.concatenate((np.zeros(zeros, magnitudes.dtype), magnitudes))

    def combine(
        self, partials: Mapping[str, list[Magnitudes]], numels: Mapping[str, int], state: None
    ) -> Mapping[str, list[Magnitudes]]:
        return partials


def collect(results: Sequence[TaskResult], number: int, assumption: int) -> dict[str, list[Any]]:
    """Return the partials of one observation under one assumption, by tensor, in block order."""
    blocks: dict[str, list[tuple[int, Any]]] = {}
    for result in results:
        for (index, tensor), partials in result.partials.items():
            if index == number:
                blocks.setdefault(tensor, []).extend((start, values[assumption]) for start, values in partials)
    return {
        tensor: [value for _, value in sorted(blocks[tensor], key=lambda pair: pair[0])] for tensor in sorted(blocks)
    }


def combine_all(
    observations: Sequence[Observation],
    results: Sequence[TaskResult],
    numels: Mapping[AnyStatistic, Mapping[str, int]],
) -> dict[AnyStatistic, Any]:
    """Return the results of a stage's statistics; those made under assumptions come after what was assumed."""
    combined: dict[AnyStatistic, Any] = {}
    order = sorted(range(len(observations)), key=lambda i: observations[i].speculation is not None)
    for number in order:
        observation = observations[number]
        speculation = observation.speculation
        assumption = 0 if speculation is None else speculation.outcome(combined[speculation])
        partials = collect(results, number, assumption)
        combined[observation.statistic] = observation.statistic.combine(
            partials, numels[observation.statistic], observation.state
        )
    return combined
