"""The schema of coefficients: by tensor of the merged task vectors, one number a task vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.schemas.notes import quoted
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.schemas.union import union


def table_of(context: SchemaContext, deltas: Sequence[Schema]) -> Schema:
    """Return a row for each tensor that any task vector has, under its name: float32, one entry a task vector."""
    merged = union(context, deltas)
    rows = {name: TensorSpec(name, "float32", (len(deltas),)) for name in merged.tensors}
    return replace(merged, tensors=rows, partial=True, globs={}, origin=f"node '{context.node}'")


def require_rows(context: SchemaContext, table: Schema, merged: Schema, count: int) -> None:
    """Raise ``CheckpointError`` where a table lacks a row for a merged tensor, or has another number of entries."""
    missing = [name for name in merged.tensors if name not in table.tensors]
    if missing:
        raise CheckpointError(
            f"node '{context.node}': {table.origin}, named by 'coefficients', has no row for {quoted(missing)}; "
            "expected one for each tensor of the task vectors: 'exclude' on this node leaves tensors out"
        )
    odd = [name for name in merged.tensors if table.tensors[name].shape != (count,)]
    if odd:
        shape = list(table.tensors[odd[0]].shape)
        raise CheckpointError(
            f"node '{context.node}': {table.origin}, named by 'coefficients', has rows of shape {shape}, such as "
            f"{quoted(odd[:1])}; expected [{count}], one number for each of 'deltas'"
        )
