"""Which checkpoint a tensor of a model comes from, where its names do not tell."""

from __future__ import annotations

from collections.abc import Mapping

from lines_pipeline.graph.graph import Graph
from lines_pipeline.planner.matching import Schema


def tensor_origin(graph: Graph, schemas: Mapping[str, Schema], step_id: str, name: str) -> str:
    """Return the step without inputs whose model the tensor ``name`` of a step's value follows."""
    while source := _source(graph, schemas[step_id], step_id, name):
        name = schemas[step_id].views.get(source, {}).get(name, name)
        step_id = source
    return graph.followed(step_id)


def _source(graph: Graph, schema: Schema, step_id: str, name: str) -> str | None:
    """Return the input that a tensor is taken from: that which it copies, or else that which the value follows."""
    inputs = graph.steps[step_id].inputs
    ports = [port for port in ("base", "model", "models") if port in inputs]
    return schema.copied.get(name) or (inputs[ports[0]][0] if ports else None)
