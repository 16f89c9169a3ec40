"""Builds the graph of a recipe that has been read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lines_pipeline.core.errors import RecipeError
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.recipe.binding.graphs import checked_graph
from lines_pipeline.recipe.binding.objective import DeclaredMetrics
from lines_pipeline.recipe.recipe import Recipe

Declared = Callable[[Step, Path], DeclaredMetrics | None]
"""Gives the metrics that the suite of a step declares, given the recipe's folder; None where they are not known."""


def build_graph(recipe: Recipe, declared: Declared = lambda step, folder: None) -> Graph:
    """Connect and check all nodes of a recipe. Raises ``RecipeError`` with every diagnostic; reads no checkpoint.

    Objectives are checked against what suites have ``declared``; by default, only the nodes that they name.
    """
    graph, diagnostics = checked_graph(
        recipe.document, recipe.recorded, recipe.tune, recipe.plugins, lambda step: declared(step, recipe.folder)
    )
    if diagnostics:
        raise RecipeError(diagnostics)
    return graph
