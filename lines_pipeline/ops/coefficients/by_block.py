"""Coefficients by block: the mean over a block's tensors of each task vector's, beside the line of LiNeS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from lines_pipeline.core.errors import EvalError, PlanError
from lines_pipeline.io.layers import LayerMap, find_layers
from lines_pipeline.ops.coefficients.units import line
from lines_pipeline.ops.depth import place_of
from lines_pipeline.ops.metrics_table import BLOCK, NODE, TASK, TOWER, Member, Row, Table

COEFFICIENT = "coefficient"
LINES = "LiNeS"
"""What stands for a task in the rows of LiNeS' line."""
COLUMNS = (TOWER, BLOCK, TASK, COEFFICIENT)
"""The columns of a table, after those of the members' places."""


def coefficient_table(members: Sequence[Member], blocks: str | tuple[str, ...], beta: float | None) -> Table:
    """Return a row a member, block and task vector, and a block's row of the line 1/N + beta * l / (L - 1).

    Rows of what is in no block have no ``block``. ``EvalError`` where there are no blocks.
    """
    rows, lines = list[Row](), dict[tuple[object, ...], Row]()
    for member in members:
        layers = _layers(member, blocks)
        rows += _rows(member, layers)
        if beta is not None:
            for row in _line(layers, _vectors(member), beta):
                lines.setdefault(tuple(row.items()), row)
    rows += lines.values()
    places = dict.fromkeys(column for member in members for column in member.known_columns)
    present = {column for row in rows for column in row}
    return Table((*places, *(column for column in COLUMNS if column in present)), tuple(rows))


def _layers(member: Member, blocks: str | tuple[str, ...]) -> LayerMap:
    try:
        return find_layers(dict.fromkeys(member.table, 1), blocks)
    except PlanError as error:
        raise EvalError(f"'{member.step}': {error}") from error


def _vectors(member: Member) -> tuple[str, ...]:
    """Return what the task vectors are called: by number where that is not known."""
    count = len(next(iter(member.table.values())))
    return member.columns or tuple(map(str, range(count)))


def _rows(member: Member, layers: LayerMap) -> Iterator[Row]:
    by_block: dict[tuple[str, int] | None, list[Sequence[float]]] = {}
    for name, numbers in member.table.items():
        by_block.setdefault(layers.blocks.get(name), []).append(numbers)
    for block in sorted(by_block, key=lambda place: (place is None, place or ("", 0))):
        for number, vector in enumerate(_vectors(member)):
            mean = fmean(numbers[number] for numbers in by_block[block])
            yield {**member.known_columns, **_place(layers.depths, block), TASK: vector, COEFFICIENT: mean}


def _line(layers: LayerMap, vectors: Sequence[str], beta: float) -> Iterable[Row]:
    for tower, depth in layers.depths.items():
        for block in range(depth):
            value = line(place_of(layers, (tower, block)), len(vectors), beta)
            yield {NODE: LINES, **_place(layers.depths, (tower, block)), TASK: LINES, COEFFICIENT: value}


def _place(depths: Mapping[str, int], block: tuple[str, int] | None) -> dict[str, str | int]:
    if block is None:
        return {}
    return {**({TOWER: block[0]} if len(depths) > 1 else {}), BLOCK: block[1]}
