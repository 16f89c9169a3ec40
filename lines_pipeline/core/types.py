"""Types that recipes, plans and what carries them out share."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

CompileMode = Literal["auto", "always", "never"]
"""Whether blocks are done by compiled loops: where these pay and work, in any case, or not at all."""

Split = Literal["train", "val", "test", "ood"]
"""Which data of a suite; ``ood`` are data of another kind than those that the task was tuned on."""
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT: tuple[Split, ...] = ("test", "ood")
"""The splits that nothing is chosen by."""


class EdgeType(StrEnum):
    """Names what flows along an edge."""

    WEIGHTS = "weights"
    """A checkpoint: every tensor of a model, in the data types it is stored with."""
    DELTA = "delta"
    """A task vector: the floating-point tensors of an update, in the compute type."""
    MASK = "mask"
    """One boolean a parameter of a task vector."""
    STATISTICS = "statistics"
    """What was measured on data of a model's own: Fisher information by tensor, Gram matrices by module."""
    COEFFICIENTS = "coefficients"
    """Factors of task vectors: by tensor of a model, one a task vector."""
    METRICS = "metrics"
    """Named figures of an evaluation, or of several."""
    FIGURE = "figure"
    """A picture of metrics, with its data."""


FILED = (EdgeType.WEIGHTS, EdgeType.DELTA, EdgeType.MASK, EdgeType.STATISTICS, EdgeType.COEFFICIENTS)
"""What a file can hold: what ``save`` writes and ``load`` reads."""
