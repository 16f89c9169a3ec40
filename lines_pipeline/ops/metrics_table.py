"""Metrics of several members as a table: a row a member, or a row a member and task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lines_pipeline.core.errors import EvalError, did_you_mean
from lines_pipeline.core.scalars import scalar_text, unspelled

NODE, ITEM, TASK = "node", "item", "task"
"""Columns that every table may have; ``item`` where members have a key and no names."""
TOWER, BLOCK = "tower", "block"
"""Columns of what is known by block; ``tower`` where there are several."""
PLACE = "place"
"""The column of what is known by place on the line between two models."""
MetricsBy = Literal["task", "block", "place"]
"""What the part after the slash of a metric's name is."""

Cell = str | int | float | bool | None
Row = Mapping[str, Any]
"""Cells by column; a figure that a member does not have is absent."""


@dataclass(frozen=True)
class Member:
    """Holds one step that gives metrics, or coefficients: its place in the recipe, and these once they are known."""

    step: str
    node: str
    item: str | None = None
    names: Mapping[str, Any] = field(default_factory=dict)
    """What every name of ``for_each`` stands for."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    directions: Mapping[str, str] = field(default_factory=dict)
    """Which of ``higher`` and ``lower`` is better, by metric."""
    by: MetricsBy = "task"
    """What the part after the slash of a metric's name is."""
    table: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Of coefficients: the numbers of each tensor."""
    columns: tuple[str, ...] = ()
    """What these numbers are of, in their order; empty where that is not known."""

    @property
    def label(self) -> str:
        """Return the key in the collection, or the step where there is none."""
        return self.step if self.item is None else self.item

    def metric(self, name: str) -> float:
        """Return a metric; ``EvalError`` where the member has none of that name."""
        if name not in self.metrics:
            near = did_you_mean(name, self.metrics)
            raise EvalError(f"'{self.step}' has no metric '{name}'{near}; it has: {', '.join(self.metrics)}")
        return self.metrics[name]

    @property
    def known_columns(self) -> dict[str, Any]:
        """Return the columns of a row that are known before any metric is: node, item, names of ``for_each``."""
        own = {} if self.names or self.item is None else {ITEM: self.item}
        return {NODE: self.node, **own, **self.names}


@dataclass(frozen=True)
class Table:
    """Holds rows of cells, and the columns in their order."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def require(self, columns: Iterable[str], what: str) -> None:
        """Raise ``EvalError`` for a column that no row has a cell of; ``what`` leads the message."""
        for column in columns:
            if column not in self.columns:
                near = did_you_mean(column, self.columns)
                raise EvalError(f"{what}: no column '{column}'{near}; there are: {', '.join(self.columns)}")


def table_of(members: Sequence[Member], columns: Iterable[str]) -> Table:
    """Return the table with ``columns``: by task where one of them is only known by task."""
    whole = _table([(member.known_columns, member.metrics) for member in members])
    by_task = [row for member in members for row in _rows_by_task(member)]
    return _table(by_task) if by_task and any(name not in whole.columns for name in columns) else whole


def split_metric(name: str) -> tuple[str, str]:
    """Return the column and the task of a metric: ``accuracy/low`` of ``accuracy/digits/low``; of others, no task."""
    metric, _, task = name.partition("/")
    for end in ("/low", "/high"):
        if task.endswith(end):
            return metric + end, task.removesuffix(end)
    return metric, task


def cell_text(cell: Any) -> str:
    """Return a cell as files have it: items as the recipe spells them, figures with all their digits."""
    return "" if cell is None else scalar_text(cell)


def number(cell: Any) -> float | None:
    """Return a cell as a number; None where it is none, or not a finite one."""
    plain = unspelled(cell)
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not math.isfinite(plain):
        return None
    return float(plain)


def _table(rows: Sequence[tuple[Row, Row]]) -> Table:
    """Return rows of places and metrics as a table: the columns of places come first, each kind as rows have it."""
    columns = dict.fromkeys(column for part in (0, 1) for row in rows for column in row[part])
    return Table(tuple(columns), tuple({**metrics, **place} for place, metrics in rows))


def block_cells(name: str) -> dict[str, Cell]:
    """Return the cells of a block, ``3`` or ``text/3``: its tower, where there is one, and its index."""
    tower, _, index = name.rpartition("/")
    return {**({TOWER: tower} if tower else {}), BLOCK: int(index) if index.isdecimal() else index}


def _rows_by_task(member: Member) -> list[tuple[Row, Row]]:
    """Return a row a task, or block, which has the metrics of the member too."""
    task_column = f"evaluated_{TASK}" if TASK in member.names else TASK
    own, shared = dict[str, dict[str, Cell]](), dict[str, Cell]()
    for name, value in member.metrics.items():
        column, task = split_metric(name)
        if task:
            own.setdefault(task, {})[column] = value
        else:
            shared[name] = value
    cells: Mapping[MetricsBy, Callable[[str], Mapping[str, Cell]]] = {
        "task": lambda task: {task_column: task},
        "block": block_cells,
        "place": lambda place: {PLACE: float(place)},
    }
    return [({**member.known_columns, **cells[member.by](key)}, {**row, **shared}) for key, row in own.items()]
