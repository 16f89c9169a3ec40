"""Builds the graph of a recipe that has been read."""

from __future__ import annotations

from lines_pipeline.core.errors import RecipeError
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.binding.graphs import checked_graph
from lines_pipeline.recipe.recipe import Recipe


def build_graph(recipe: Recipe) -> Graph:
    """Connect and check all nodes of a recipe. Raises ``RecipeError`` with every diagnostic; reads no checkpoint."""
    graph, diagnostics = checked_graph(recipe.document, recipe.recorded, recipe.tune, recipe.plugins)
    if diagnostics:
        raise RecipeError(diagnostics)
    return graph
