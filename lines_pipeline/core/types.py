"""The types of the edges of a recipe's graph."""

from __future__ import annotations

from enum import StrEnum


class EdgeType(StrEnum):
    """What flows along an edge."""

    WEIGHTS = "weights"
    """A checkpoint: every tensor of a model, in the data types it is stored with."""
    DELTA = "delta"
    """A task vector: the floating-point tensors of an update, in the compute type."""
    MASK = "mask"
    """One boolean a parameter of a task vector."""
    METRICS = "metrics"
    """Named figures of an evaluation."""
