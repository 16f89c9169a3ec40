"""What a recipe's ``save`` nodes want written, and where."""

from __future__ import annotations

from pathlib import Path

from lines_pipeline.core.errors import PlanError
from lines_pipeline.engine.storing import Request
from lines_pipeline.io.locations import resolve_output
from lines_pipeline.ops.save import SaveParams
from lines_pipeline.recipe.graph import Graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.schema import parse_bytes


def check_outputs(graph: Graph, folder: Path) -> None:
    """Raise ``PlanError`` where two nodes write one file, or one would not be a safetensors file in the folder."""
    taken: dict[Path, str] = {}
    for step in graph.steps.values():
        if isinstance(step.params, SaveParams):
            path = resolve_output(folder, step.params.path)
            if path.suffix != ".safetensors":
                raise PlanError(f"node '{step.node}': path '{step.params.path}' should end in .safetensors")
            if path in taken:
                raise PlanError(f"nodes '{taken[path]}' and '{step.id}' both write '{step.params.path}'")
            taken[path] = step.id


def requests(recipe: Recipe, graph: Graph, folder: Path) -> dict[str, Request]:
    """What the ``save`` steps want, by step."""
    found: dict[str, Request] = {}
    metadata = {"recipe": recipe.canonical(), "recipe_hash": recipe.hash}
    for step in graph.steps.values():
        if isinstance(step.params, SaveParams):
            limit = parse_bytes(step.params.max_shard_size) if step.params.max_shard_size else None
            path = resolve_output(folder, step.params.path)
            source = step.inputs["model"][0]
            found[step.id] = Request(source, path, step.params.dtype, limit, step.params.packed, metadata)
    return found
