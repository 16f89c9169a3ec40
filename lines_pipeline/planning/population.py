"""Which entries a statistic is taken of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lines_pipeline.ops.base import Measure
from lines_pipeline.planning.globs import chooses
from lines_pipeline.planning.matching import Layout


def population(measure: Measure, layouts: Mapping[str, Layout]) -> dict[str, int]:
    """Entries by tensor that a measure counts: of all that its values have, without what its bounds leave out."""
    found: dict[str, int] = {}
    values = [layouts[step] for step in measure.of]
    for layout in values:
        numels = layout.numels
        if measure.bounds:
            numels = {n: count for n, count in numels.items() if chooses(measure.bounds, layout.all_names(n))}
        found |= numels
    return found | {name: _entries(name, values) for layout in values for name in layout.regions if name in found}


def _entries(name: str, values: Sequence[Layout]) -> int:
    """Count the entries of a tensor that lie in the region of the values: the smallest box around theirs."""
    having = [layout for layout in values if name in layout.tensors]
    shapes = [layout.regions.get(name, layout.tensors[name].shape) for layout in having]
    return math.prod(map(max, zip(*shapes, strict=True)))
