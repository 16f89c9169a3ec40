"""The default for weights: the tensors of one model, with values computed where the other inputs have them too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lines_pipeline.ops.schemas.comparison import Comparison, compare, refuse_extra, refuse_missing, refuse_shapes
from lines_pipeline.ops.schemas.notes import TensorNote
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


def like_base(
    context: SchemaContext, base: Schema, *, models: Sequence[Schema] = (), deltas: Sequence[Schema] = ()
) -> Schema:
    """Return the schema of ``base``, which keeps its values of tensors that the node leaves out, or that no delta has.

    Raises ``CheckpointError`` where a model lacks a tensor, or any input has one more or in another shape.
    """
    floating = [name for name, spec in base.tensors.items() if spec.is_floating]
    chosen = {n for n in floating if context.chooses(base.all_names(n))} if context.is_bounded else set(floating)
    views: dict[str, Mapping[str, str]] = {}
    notes: list[TensorNote] = []
    moved = set[str]()
    for other in models:
        comparison = compare(context, other, base)
        refuse_extra(context, other, base, comparison)
        refuse_missing(
            context, other, base, comparison, "'exclude' on this node keeps the first model's values of them"
        )
        refuse_shapes(context, other, base, comparison.reshaped, _SHAPES.format("first model"))
        chosen &= comparison.same.keys()
        views |= {other.step: comparison.views} if comparison.views else {}
        notes += notes_of_model(context, comparison, other, base)
    for delta in deltas:
        comparison = compare(context, delta, base)
        refuse_extra(context, delta, base, comparison)
        refuse_shapes(context, delta, base, comparison.reshaped, _SHAPES.format("base"))
        moved |= comparison.same.keys()
        views |= {delta.step: comparison.views} if comparison.views else {}
        notes += _notes_of_delta(context, comparison, base, delta)
    computed = chosen & moved if deltas else chosen
    return replace(
        base,
        copied={name: base.step for name in floating if name not in computed},
        regions={},
        views=views,
        drops_extra=False,
        extra_remedy="",
        notes=tuple(notes),
        globs=context.globs(base, *models),
    )


_SHAPES = "'exclude' on this node keeps the {}'s values of such tensors"


def notes_of_model(
    context: SchemaContext, comparison: Comparison, other: Schema, first: Schema
) -> tuple[TensorNote, ...]:
    """Return notes of tensors that two models do not share, or that one of them ties."""
    origin, uses = first.origin, Counter(comparison.same.values())
    cases = {
        f"left out, {origin}'s stay": comparison.left,
        f"not in the other file, {origin}'s stay": comparison.missing,
        f"dropped from the other file, {origin}'s stay": comparison.dropped,
        f"floating-point in one of them and integer in the other, {origin}'s stay": comparison.typed,
        "tied to one tensor in the other file, which is used for each": [
            name for name, tensor in comparison.same.items() if uses[tensor] > 1
        ],
        f"not in {origin}, in no output unless 'graft' adds them": [*comparison.extra, *comparison.extra_left],
    }
    return context.notes(cases, other.origin)


def _notes_of_delta(
    context: SchemaContext, comparison: Comparison, base: Schema, delta: Schema
) -> tuple[TensorNote, ...]:
    """Return notes of what a task vector lacks that its own model had, and of what in it is not used."""
    known = {*delta.names, *delta.left_out}
    cases = {
        f"not in the task vector, {base.origin}'s stay": [
            name for name in comparison.missing if not known & {*base.all_names(name)}
        ],
        f"not in {base.origin}, in no output": comparison.extra,
        f"integer in {base.origin}, whose values stay": comparison.typed,
    }
    return context.notes(cases, delta.origin)
