"""Gathers the rows of a table into series: what one line, or one colour, shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops.figures import Figure
from lines_pipeline.ops.metrics_table import Row, cell_text, number


@dataclass(frozen=True)
class Point:
    """Holds the mean of rows of equal x: ``deviation`` is their sample standard deviation, 0 of one row."""

    x: Any
    mean: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Series:
    """Holds the points of one column of ``y`` and one group, in the order of x."""

    label: str
    points: tuple[Point, ...]


def series_of(figure: Figure) -> list[Series]:
    """Return a series for each column of ``y`` and each group; ``EvalError`` where no row has a figure to show."""
    groups, numeric = grouped(figure), categories(figure, figure.x) is None
    all_series = []
    for column in figure.y:
        for group, rows in groups.items():
            points = _points(pairs(figure, rows, column, numeric=numeric), numeric=numeric)
            label = " ".join(part for part in (column if len(figure.y) > 1 else "", group) if part)
            all_series += [Series(label or column, tuple(points))] if points else []
    if not all_series:
        raise EvalError(f"plot: no row has a finite figure in {' or '.join(figure.y)}")
    return all_series


def grouped(figure: Figure) -> dict[str, list[Row]]:
    """Return the rows by group, in the order in which they come; of one group where none is named."""
    groups: dict[str, list[Row]] = {}
    for row in figure.table.rows:
        groups.setdefault(cell_text(row.get(figure.group)) if figure.group else "", []).append(row)
    return groups


def categories(figure: Figure, column: str) -> list[str] | None:
    """Return the texts of a column, each once, in the order in which they come; None where all cells are numbers."""
    cells = [row[column] for row in figure.table.rows if column in row]
    if all(number(cell) is not None for cell in cells):
        return None
    return list(dict.fromkeys(cell_text(cell) for cell in cells))


def texts(rows: Iterable[Row], column: str) -> list[str]:
    """Return the cells of a column as texts, each once, in the order in which they come."""
    return list(dict.fromkeys(cell_text(row[column]) for row in rows if column in row))


def pairs(figure: Figure, rows: Sequence[Row], column: str, *, numeric: bool) -> list[tuple[Any, float]]:
    """Return x, as a number or a text, and a column's figure of each row; rows that lack one are left out."""
    of_rows = [
        (number(row[figure.x]) if numeric else cell_text(row[figure.x]), number(row.get(column)))
        for row in rows
        if figure.x in row
    ]
    return [(x, y) for x, y in of_rows if y is not None]


def _points(of_rows: Sequence[tuple[Any, float]], *, numeric: bool) -> list[Point]:
    values: dict[Any, list[float]] = {}
    for x, value in of_rows:
        values.setdefault(x, []).append(value)
    order = sorted(values) if numeric else list(values)
    return [Point(x, fmean(values[x]), _deviation(values[x]), len(values[x])) for x in order]


def _deviation(values: Sequence[float]) -> float:
    deviation = stdev(values) if len(values) > 1 else 0.0
    return deviation if math.isfinite(deviation) else 0.0
