"""Which tensors every step's value has: a fold of ``Op.schema``, before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.types import FILED
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.ops.schemas.globs import chooses, nearest
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.planner.stages import ancestors

__all__ = ["Schema", "infer_schemas", "schema_of"]


def infer_schemas(graph: Graph, steps: Iterable[str], checkpoints: Mapping[str, Checkpoint]) -> dict[str, Schema]:
    """Return the schemas of the ``steps`` (in topological order); ``checkpoints`` by step that reads one.

    Raises ``CheckpointError`` for missing, extra or mis-shaped tensors, ``PlanError`` for globs that match nothing.
    """
    schemas: dict[str, Schema] = {}
    for step_id in steps:
        step = graph.steps[step_id]
        if step.gives not in FILED:
            continue
        bounds = step.include, step.exclude
        checkpoint = checkpoints[step_id] if step.op.is_source else None
        context = SchemaContext(step_id, step.node, step.gives, bounds, checkpoint, step.measured)
        inputs = {port: [_as_input(schemas[i]) for i in ids] for port, ids in step.inputs.items()}
        schemas[step_id] = replace(step.op.schema(step.params, inputs, context), step=step_id)
    _refuse_unmatched(graph, schemas)
    return schemas


def schema_of(graph: Graph, step: str, checkpoints: Mapping[str, Checkpoint]) -> Schema:
    """Return the schema of one step, as ``infer_schemas`` does."""
    return infer_schemas(graph, ancestors(graph, [step]), checkpoints)[step]


def _as_input(schema: Schema) -> Schema:
    """Return the schema without what only the step that makes the value needs to know."""
    return replace(schema, beside={}, streamed=frozenset()) if schema.beside or schema.streamed else schema


def holds_exactly(value: Checkpoint, schema: Schema) -> bool:
    """Return whether a stored value is as it was computed, not rounded: further steps may be computed from it."""
    floating = [(name, spec) for name, spec in schema.tensors.items() if spec.is_floating and name in value.tensors]
    types = {(value.tensors[name].spec.dtype, spec.compute_dtype) for name, spec in floating}
    return all(stored in (computed, "bool") for stored, computed in types)


def left_out_names(step: Step, tensors: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return the tensors, given with all their names, that ``include`` and ``exclude`` leave out."""
    bounds = step.include, step.exclude
    return frozenset(name for name, names in tensors.items() if not chooses(bounds, names))


def _refuse_unmatched(graph: Graph, schemas: Mapping[str, Schema]) -> None:
    """Raise ``PlanError`` for a pattern that matches no tensor of any member of its node."""
    matched: dict[tuple[str, str], bool] = {}
    for step_id, schema in schemas.items():
        for glob, matches in schema.globs.items():
            key = (graph.steps[step_id].node, glob)
            matched[key] = matched.get(key, False) or matches
    unmatched = [spot for spot, is_matched in matched.items() if not is_matched]
    if unmatched:
        raise PlanError.of(_unmatched(graph, schemas, node, glob) for node, glob in unmatched)


def _unmatched(graph: Graph, schemas: Mapping[str, Schema], node: str, glob: str) -> Diagnostic:
    steps = [step for step in schemas if graph.steps[step].node == node]
    names = {name for step in steps for name in schemas[step].names}
    message = f"the glob '{glob}' matches no tensor{nearest(glob, names)}"
    paths = (path for step in steps for path in _paths_of(glob, graph.steps[step]))
    return Diagnostic(("nodes", node, *next(paths, ())), message, node=node)


def _paths_of(glob: str, step: Step) -> Iterator[FieldPath]:
    """Yield where the lists of a step's node hold a glob."""
    for name, value in [("include", step.include), ("exclude", step.exclude), *step.params]:
        if isinstance(value, tuple) and glob in value:
            yield name, value.index(glob)
