"""Which checkpoint a tensor of a model comes from, where its names do not tell."""

from __future__ import annotations

from collections.abc import Mapping

from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.schemas.schema import Schema


def tensor_origin(graph: Graph, schemas: Mapping[str, Schema], step_id: str, name: str) -> str:
    """Return the step without inputs whose model the tensor ``name`` of a step's value follows."""
    while source := schemas[step_id].copied.get(name) or graph.steps[step_id].followed:
        name = schemas[step_id].views.get(source, {}).get(name, name)
        step_id = source
    return step_id
