"""The mean of a few figures, and Student's 95 % interval of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """Holds a mean of shares and its interval; of one figure alone there is none."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """Return 1 or -1 where the whole interval is above or below 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)

    @property
    def points(self) -> str:
        """Return the mean in words: ``1.5 points more``, ``0.2 points less``."""
        return f"{abs(100 * self.mean):.1f} points {'less' if self.mean < 0 else 'more'}"

    @property
    def told(self) -> str:
        """Return the interval in points, in words."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"

    def metrics(self, name: str) -> dict[str, float]:
        """Return the mean under a name, and the ends of the interval below it."""
        ends = {f"{name}/low": self.low, f"{name}/high": self.high}
        return {name: self.mean, **{end: value for end, value in ends.items() if value is not None}}


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of figures that are taken to be normal and independent, and its interval."""
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean)
    margin = student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - margin, mean + margin)


def student_quantile(freedom: int, coverage: float = COVERAGE) -> float:
    """Return the t within which, to both sides of 0, Student's distribution has the coverage."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + coverage) / 2))
