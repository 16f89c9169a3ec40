"""The schema of an update: what a model changed of the floating-point tensors of its base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.ops.schemas.comparison import Comparison, compare, refuse_extra, refuse_missing, refuse_shapes
from lines_pipeline.ops.schemas.like_base import notes_of_model
from lines_pipeline.ops.schemas.notes import TensorNote
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext

OnMissing = Literal["error", "base"]
OnShapeMismatch = Literal["error", "base", "crop"]


def difference(
    context: SchemaContext,
    base: Schema,
    model: Schema,
    *,
    on_missing: OnMissing = "error",
    on_shape_mismatch: OnShapeMismatch = "error",
) -> Schema:
    """Return the schema of the tensors that both have. Raises ``CheckpointError`` for what else either of them has."""
    comparison = compare(context, model, base)
    refuse_extra(context, model, base, comparison)
    if on_missing == "error":
        refuse_missing(context, model, base, comparison, "'on_missing: base' keeps the base's values of them")
    if on_shape_mismatch == "error":
        refuse_shapes(context, model, base, comparison.reshaped, _RESHAPED)
    overlaps = _overlaps(context, model, base, comparison) if on_shape_mismatch == "crop" else {}
    same = comparison.same | {name: comparison.reshaped[name] for name in overlaps}
    tensors = {name: spec for name, spec in base.tensors.items() if name in same}
    views = {name: theirs for name, theirs in comparison.views.items() if name in tensors}
    return Schema(
        tensors,
        base.names,
        aliases=base.aliases,
        regions={name: shape for name, shape in overlaps.items() if shape != tensors[name].shape},
        views={model.step: views} if views else {},
        origin=base.origin,
        sizes=base.sizes,
        notes=(
            *notes_of_model(context, comparison, model, base),
            *_notes_of_shapes(context, comparison, overlaps, model, base),
        ),
        globs=context.globs(base, model),
    )


_RESHAPED = (
    "'on_shape_mismatch: base' keeps the base's values of such tensors, 'crop' merges the leading rows that both have, "
    "and 'exclude' on this node leaves tensors out"
)


def _overlaps(
    context: SchemaContext, model: Schema, base: Schema, comparison: Comparison
) -> dict[str, tuple[int, ...]]:
    """Return the leading region that both have of tensors of different shapes."""
    overlaps = {}
    for name, theirs in comparison.reshaped.items():
        shape, model_shape = base.tensors[name].shape, model.tensors[theirs].shape
        if len(shape) != len(model_shape):
            raise CheckpointError(
                f"node '{context.node}': {model.origin}: tensor '{theirs}' has shape {list(model_shape)}, expected "
                f"{len(shape)} dimensions as in {base.origin} to crop; 'exclude' on this node leaves it out"
            )
        overlaps[name] = tuple(map(min, shape, model_shape))
    return {name: shape for name, shape in overlaps.items() if 0 not in shape}


def _notes_of_shapes(
    context: SchemaContext, comparison: Comparison, overlaps: Mapping[str, tuple[int, ...]], model: Schema, base: Schema
) -> tuple[TensorNote, ...]:
    """Return notes of what was done about tensors of different shapes."""
    cropped = tuple(
        TensorNote(context.node, (name,), f"cropped to {list(shape)}, the rest of the base's stays", model.origin)
        for name, shape in overlaps.items()
    )
    kept = [name for name in comparison.reshaped if name not in overlaps]
    return (*cropped, *context.notes({f"of another shape, {base.origin}'s stay": kept}, model.origin))
