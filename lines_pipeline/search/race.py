"""Stops trials that are not among the best while they are judged by growing parts of the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.recipe.schema import Pruning

WHOLE = 1.0
"""The share of the last round: all samples."""


@dataclass
class Race:
    """Asynchronous successive halving (Li et al., arXiv 1810.05934), in the order of the trials.

    A trial goes on from a share where it is among the best ``keep`` of the trials so far that were judged by the same
    samples, itself included, and always where it is the best of them. So the first one goes all the way.
    """

    pruning: Pruning | None
    seed: int
    maximizes: bool
    _objectives: dict[float, list[float]] = field(default_factory=dict)

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the shares of the samples by which a trial is judged in turn; the last is the whole."""
        return (*(self.pruning.shares if self.pruning else ()), WHOLE)

    def part(self, share: float) -> SamplePart | None:
        """Return the samples of a share; None for all."""
        return None if share == WHOLE else SamplePart(share, self.seed)

    def goes_on(self, share: float, objective: float) -> bool:
        """Take the objective of the next trial on a share; return whether it goes on."""
        if self.pruning is None or share == WHOLE:
            return False
        objectives = self._objectives.setdefault(share, [])
        objectives.append(objective)
        better = sum(is_better(other, objective, maximizes=self.maximizes) for other in objectives)
        return better < max(1, math.floor(self.pruning.keep * len(objectives)))


def is_better(objective: float, other: float, *, maximizes: bool) -> bool:
    """Return whether an objective is better than another; any number is better than none."""
    if math.isnan(objective) or math.isnan(other):
        return math.isnan(other) and not math.isnan(objective)
    return objective > other if maximizes else objective < other
