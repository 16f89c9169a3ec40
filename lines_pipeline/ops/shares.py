"""Checks weights that are shares of the models: their mean is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

NO_WEIGHT = 1e-8
"""Sums of weights below this are not divided by."""


def wrong_shares(weights: Sequence[float]) -> str | None:
    """Return what is wrong with the shares of models; None where nothing is."""
    if min(weights) < 0 or max(weights) == 0:
        return "'weights' are shares of the models: expected none below 0, and one above"
    return None


def cancel_out(weights: Sequence[float]) -> bool:
    """Return whether the weights have a sum of 0, up to rounding."""
    return abs(math.fsum(weights)) < NO_WEIGHT
