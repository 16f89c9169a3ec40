"""The default for task vectors and masks: the tensors that any of the merged ones has; absent ones count as zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.schemas.notes import quoted
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


def union(
    context: SchemaContext, merged: Sequence[Schema], *, others: Sequence[Schema] = (), within: Schema | None = None
) -> Schema:
    """Return the tensors of ``merged``; ``others`` have to be of the same model, ``within`` (a mask) bounds the result.

    Raises ``CheckpointError`` where the inputs are of different models.
    """
    tensors = {name: spec for schema in merged for name, spec in schema.tensors.items()}
    if within is not None:
        tensors = {name: spec for name, spec in tensors.items() if name in within.tensors}
    if context.is_bounded:
        tensors = {name: spec for name, spec in tensors.items() if context.chooses(merged[0].all_names(name))}
    inputs = [*merged, *others, *([within] if within else [])]
    for schema in inputs:
        _require_same_model(context, schema, merged[0], tensors)
    names = merged[0].names
    if any(schema.names != names for schema in merged):
        names = tuple(sorted({name for schema in merged for name in schema.names}))
    return replace(
        merged[0],
        tensors={name: tensors[name] for name in sorted(tensors)},
        names=names,
        sizes={name: size for schema in reversed(merged) for name, size in schema.sizes.items()},
        copied={},
        regions=_regions(inputs, merged, tensors, within),
        views={},
        partial=all(schema.partial for schema in merged),
        drops_extra=any(schema.drops_extra for schema in merged),
        extra_remedy=next((schema.extra_remedy for schema in merged if schema.extra_remedy), ""),
        notes=(),
        globs=context.globs(*merged),
    )


def require_all(context: SchemaContext, port: str, schema: Schema, tensors: Mapping[str, TensorSpec]) -> None:
    """Raise ``CheckpointError`` where the file that ``port`` names lacks one of ``tensors``, or has another shape."""
    odd = [n for n, spec in tensors.items() if n not in schema.tensors or schema.tensors[n].shape != spec.shape]
    if odd:
        raise CheckpointError(
            f"node '{context.node}': {schema.origin}, named by '{port}', lacks tensors of the task vector or has other "
            f"shapes: {quoted(odd)}"
        )


def _regions(
    inputs: Sequence[Schema], merged: Sequence[Schema], tensors: Mapping[str, TensorSpec], within: Schema | None
) -> dict[str, tuple[int, ...]]:
    """Return the regions that count: what any of the merged vectors has, and where ``within`` is for it."""
    regions = {}
    for name in {name for schema in inputs for name in schema.regions} & tensors.keys():
        shapes = [schema.regions.get(name, tensors[name].shape) for schema in merged if name in schema.tensors]
        region = tuple(map(max, *shapes)) if len(shapes) > 1 else shapes[0]
        if within is not None:
            region = tuple(map(min, region, within.regions.get(name, region)))
        if region != tensors[name].shape:
            regions[name] = region
    return regions


def _require_same_model(
    context: SchemaContext, schema: Schema, first: Schema, tensors: Mapping[str, TensorSpec]
) -> None:
    """Raise ``CheckpointError`` where a vector has one of ``tensors`` in another shape, or its model lacks it."""
    odd = [n for n, spec in tensors.items() if n in schema.tensors and schema.tensors[n].shape != spec.shape]
    if not schema.partial and schema.names != first.names:
        known = {*schema.names, *schema.aliases, *schema.left_out}
        odd += [name for name in tensors if name not in known]
    if odd:
        raise CheckpointError(
            f"node '{context.node}': updates of different models cannot be combined: {schema.origin} and "
            f"{first.origin} differ in {quoted(odd)}; 'exclude' on the nodes that make or merge them leaves tensors out"
        )
