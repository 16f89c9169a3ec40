"""Checks weights that are shares of the models: their mean is taken."""

from __future__ import annotations

from collections.abc import Sequence


def wrong_shares(weights: Sequence[float]) -> str | None:
    """Return what is wrong with the shares of models; None where nothing is."""
    if min(weights) < 0 or max(weights) == 0:
        return "'weights' are shares of the models: expected none below 0, and one above"
    return None
