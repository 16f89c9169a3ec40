"""What a figure shows: which columns of a table, and how. ``reports`` draws it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lines_pipeline.ops.metrics_table import Table

FigureKind = Literal["line", "scatter", "bar", "radar", "heatmap"]


@dataclass(frozen=True)
class Figure:
    """Declares a picture of a table; ``x``, ``y``, ``group`` and ``arrows`` name columns."""

    kind: FigureKind
    table: Table
    x: str
    y: tuple[str, ...]
    group: str = ""
    arrows: str = ""
    """Rows that are equal in this column are joined by arrows, in their order."""
    front: bool = False
    """Whether the points that no other of their group is better than are joined."""
    title: str = ""
    directions: Mapping[str, str] = field(default_factory=dict)
    """Which of ``higher`` and ``lower`` is better, by column."""
    units: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    """Where the picture goes, inside the output folder."""
    data_path: str = ""
    """Where the table goes, a CSV file inside the output folder."""
