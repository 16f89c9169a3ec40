"""Which entries a statistic is taken of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lines_pipeline.ops.base import AnyStatistic
from lines_pipeline.ops.schemas.globs import chooses
from lines_pipeline.ops.schemas.schema import Schema


def population(statistic: AnyStatistic, schemas: Mapping[str, Schema]) -> dict[str, int]:
    """Return the entries by tensor that a statistic counts: all that its values have, within its bounds."""
    entries: dict[str, int] = {}
    values = [schemas[step] for step in statistic.of]
    for schema in values:
        numels = schema.numels
        if statistic.bounds:
            numels = {n: count for n, count in numels.items() if chooses(statistic.bounds, schema.all_names(n))}
        entries |= numels
    return entries | {name: _entries(name, values) for schema in values for name in schema.regions if name in entries}


def _entries(name: str, values: Sequence[Schema]) -> int:
    """Count the entries of a tensor that lie in the region of the values: the smallest box around theirs."""
    having = [schema for schema in values if name in schema.tensors]
    shapes = [schema.regions.get(name, schema.tensors[name].shape) for schema in having]
    return math.prod(map(max, zip(*shapes, strict=True)))
