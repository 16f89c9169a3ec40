"""The points of the scaling study, and what was measured at each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One merge of the study; ``setting`` is what varies among the points it belongs to."""

    setting: str
    method: str
    experts: int
    parameters: float
    workers: int


@dataclass(frozen=True)
class Measured:
    """A point, and the median of its runs."""

    point: Point
    input_bytes: int
    sweeps: int
    swept_bytes: int
    """Read by all sweeps together."""
    seconds: float
    sweep_seconds: float
    floor_seconds: float
    anonymous_peak_bytes: int
