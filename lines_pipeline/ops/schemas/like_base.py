"""The default for weights: the tensors of one model, with values computed where the other inputs have them too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lines_pipeline.ops.schemas.comparison import Comparison, compare, refuse_extra, refuse_missing, refuse_shapes
from lines_pipeline.ops.schemas.notes import Told
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


def like_base(
    context: SchemaContext, base: Schema, *, models: Sequence[Schema] = (), deltas: Sequence[Schema] = ()
) -> Schema:
    """The schema of ``base``. It keeps its values where the node leaves a tensor out, and where no delta has it.

    Raises ``CheckpointError`` where a model lacks a tensor, or any input has one more or in another shape.
    """
    floating = [name for name, spec in base.tensors.items() if spec.is_floating]
    chosen = {n for n in floating if context.chooses(base.all_names(n))} if context.is_bounded else set(floating)
    views: dict[str, Mapping[str, str]] = {}
    told: list[Told] = []
    moved = set[str]()
    for other in models:
        found = compare(context, other, base)
        refuse_extra(context, other, base, found)
        refuse_missing(context, other, base, found, "'exclude' on this node keeps the first model's values of them")
        refuse_shapes(context, other, base, found.reshaped, _SHAPES.format("first model"))
        chosen &= found.same.keys()
        views |= {other.step: found.views} if found.views else {}
        told += told_of_model(context, found, other, base)
    for delta in deltas:
        found = compare(context, delta, base)
        refuse_extra(context, delta, base, found)
        refuse_shapes(context, delta, base, found.reshaped, _SHAPES.format("base"))
        moved |= found.same.keys()
        views |= {delta.step: found.views} if found.views else {}
        told += _told_of_delta(context, found, base, delta)
    computed = chosen & moved if deltas else chosen
    return replace(
        base,
        copied={name: base.step for name in floating if name not in computed},
        regions={},
        views=views,
        drops_extra=False,
        extra_remedy="",
        told=tuple(told),
        globs=context.globs(base, *models),
    )


_SHAPES = "'exclude' on this node keeps the {}'s values of such tensors"


def told_of_model(context: SchemaContext, found: Comparison, other: Schema, first: Schema) -> tuple[Told, ...]:
    """What a comparison of two models leaves as it is, leaves out or uses twice."""
    mine, uses = first.origin, Counter(found.same.values())
    cases = {
        f"left out, {mine}'s stay": found.left,
        f"not in the other file, {mine}'s stay": found.missing,
        f"dropped from the other file, {mine}'s stay": found.dropped,
        f"floating-point in one of them and integer in the other, {mine}'s stay": found.typed,
        "tied to one tensor in the other file, which is used for each": [
            n for n, t in found.same.items() if uses[t] > 1
        ],
        f"not in {mine}, in no output unless 'graft' adds them": [*found.extra, *found.extra_left],
    }
    return context.told(cases, other.origin)


def _told_of_delta(context: SchemaContext, found: Comparison, base: Schema, delta: Schema) -> tuple[Told, ...]:
    """What a task vector lacks that its own model did not have either, and what of it is not used."""
    known = {*delta.names, *delta.left_out}
    cases = {
        f"not in the task vector, {base.origin}'s stay": [n for n in found.missing if not known & {*base.all_names(n)}],
        f"not in {base.origin}, in no output": found.extra,
        f"integer in {base.origin}, whose values stay": found.typed,
    }
    return context.told(cases, delta.origin)
