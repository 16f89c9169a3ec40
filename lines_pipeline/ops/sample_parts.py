"""A part of the samples of a task: the first ones, and of these whole clusters drawn by a seed.

Of the same first samples, each share lies within every larger one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]


@dataclass(frozen=True)
class SamplePart:
    """Says which samples of every task are judged: a share of the clusters of the first ones, one at least."""

    share: float = 1.0
    """More than 0, at most 1."""
    seed: int = 0
    first: int | None = None
    """How many of the task's samples there are to draw from, the first in its order; None for all."""

    @property
    def identity(self) -> list[Any]:
        """Return what results by this part are remembered by."""
        return [self.share, self.seed, *([] if self.first is None else [self.first])]

    def numbers(self, task: str, count: int, clusters: Numbers | None = None) -> Numbers:
        """Return the numbers of the samples, in order: int64, of 0..count-1.

        ``clusters`` [count] numbers what belongs together; None: each sample stands alone.
        """
        count = count if self.first is None else min(count, self.first)
        of_sample = np.arange(count) if clusters is None else np.unique(clusters[:count], return_inverse=True)[1]
        total = int(of_sample.max(initial=-1)) + 1
        taken = np.zeros(total, bool)
        taken[self._order(task, total)[: math.ceil(self.share * total)]] = True
        return np.flatnonzero(taken[of_sample])

    def _order(self, task: str, count: int) -> Numbers:
        """Draw an order that depends on seed and task alone: a part is how far one goes in it."""
        key = hashlib.blake2b(f"{self.seed}\0{task}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=np.frombuffer(key, "<u8"))).permutation(count)
