"""Turns what jobs observed into results: samples, brackets, sums, and guesses that came true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.engine.jobs import JobResult
from lines_pipeline.ops.base import Measure, Partials
from lines_pipeline.ops.blocks import Value, within
from lines_pipeline.planning.program import Observation


@dataclass(frozen=True)
class Sample(Measure):
    """Magnitudes of the first observed value, in no particular order."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: Any) -> tuple[Any, ...]:
        return (within(values[0], 0.0, math.inf),)

    def partial(self, *reduced: Any) -> np.ndarray[Any, Any]:
        ((_, zeros, magnitudes, _),) = reduced
        return np.concatenate((np.zeros(zeros, magnitudes.dtype), magnitudes))

    def finalize(self, partials: Partials, numels: Mapping[str, int], state: Any) -> Partials:
        return partials


def collect(results: Sequence[JobResult], number: int, world: int) -> dict[str, list[Any]]:
    """Partials of one observation under one guess, by tensor, in block order."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for result in results:
        for (index, tensor), partials in result.partials.items():
            if index == number:
                found.setdefault(tensor, []).extend((start, values[world]) for start, values in partials)
    return {tensor: [value for _, value in sorted(found[tensor], key=lambda pair: pair[0])] for tensor in sorted(found)}


def finalize_all(
    observations: Sequence[Observation],
    results: Sequence[JobResult],
    numels: Mapping[Measure, Mapping[str, int]],
) -> dict[Measure, Any]:
    """Results of a pass's measures; those made under guesses come after what was guessed."""
    found: dict[Measure, Any] = {}
    order = sorted(range(len(observations)), key=lambda i: observations[i].guess is not None)
    for number in order:
        observation = observations[number]
        guess = observation.guess
        world = 0 if guess is None else guess.hypothesis(found[guess])
        partials = collect(results, number, world)
        found[observation.measure] = observation.measure.finalize(
            partials, numels[observation.measure], observation.state
        )
    return found
