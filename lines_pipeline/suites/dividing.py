"""Judges models by a part of each task's samples, where a suite can."""

from __future__ import annotations

from lines_pipeline.core.errors import EvalError
from lines_pipeline.suites.base import DivisibleSuite, Suite

PRUNING = "trials cannot be stopped early; leave 'pruning' out of 'tune'"
SUBSET = "'subset' has nothing to choose from; leave it out, and let the suite itself take fewer samples"
"""What follows where a suite cannot judge by a part."""


def require_divisible(suite: Suite, uri: str, consequence: str = PRUNING) -> DivisibleSuite:
    """Return a suite that can judge by a part of the samples. Raises ``EvalError`` for one that cannot."""
    if isinstance(suite, DivisibleSuite):
        return suite
    raise EvalError(f"the suite {uri} judges a model by all samples of a task or by none, so {consequence}")
