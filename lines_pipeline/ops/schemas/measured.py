"""The schema of models that are merged by what was measured of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lines_pipeline.ops.schemas.comparison import compare, refuse_extra, refuse_shapes
from lines_pipeline.ops.schemas.like_base import like_base
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


def like_base_measured(context: SchemaContext, models: Sequence[Schema], statistics: Sequence[Schema]) -> Schema:
    """Return the schema of the first model, which keeps its values of tensors that none of the statistics have.

    Raises ``CheckpointError`` where the models differ, or statistics have a tensor that they lack or in another shape.
    """
    merged = like_base(context, models[0], models=models[1:])
    views: dict[str, Mapping[str, str]] = {}
    measured = set[str]()
    for source in statistics:
        comparison = compare(context, source, models[0])
        refuse_extra(context, source, models[0], comparison)
        refuse_shapes(context, source, models[0], comparison.reshaped, _SHAPES)
        measured |= comparison.same.keys()
        views |= {source.step: comparison.views} if comparison.views else {}
    floating = [name for name, spec in merged.tensors.items() if spec.is_floating]
    unmeasured = [name for name in floating if name not in measured and name not in merged.copied]
    notes = context.notes({f"in no statistics, {models[0].origin}'s stay": unmeasured}, statistics[0].origin)
    return replace(
        merged,
        copied={**merged.copied, **dict.fromkeys(unmeasured, models[0].step)},
        views={**merged.views, **views},
        notes=(*merged.notes, *notes),
    )


_SHAPES = "'exclude' on this node keeps the first model's values of such tensors"
