"""A model of what a merge costs, fitted to measurements: ``seconds = start-up + bytes x sweeps / rate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CostModel:
    """What a merge costs on the machine it was fitted on."""

    startup_seconds: float
    bytes_per_second: float
    """Of input in one sweep."""
    largest_error: float
    """Of any measurement, as a share of it."""

    def seconds(self, swept_bytes: float) -> float:
        """The time of a merge whose inputs times its sweeps are that many bytes."""
        return self.startup_seconds + swept_bytes / self.bytes_per_second


def fit(swept_bytes: Sequence[float], seconds: Sequence[float]) -> CostModel:
    """The model with the smallest squared relative errors, so that short merges count as much as long ones."""
    measured = np.asarray(seconds)
    columns = np.stack([np.ones(len(measured)), np.asarray(swept_bytes)], axis=1)
    (startup, slope), *_ = np.linalg.lstsq(columns / measured[:, None], np.ones(len(measured)), rcond=None)
    errors = np.abs(columns @ [startup, slope] / measured - 1)
    return CostModel(float(startup), float(1 / slope), float(errors.max()))
