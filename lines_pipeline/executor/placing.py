"""Finds something for every step, and tells all that is wrong as one error, by the places in the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lines_pipeline.core.diagnostics import in_file_order
from lines_pipeline.core.errors import CheckpointError, EvalError, PlanError
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.recipe import Recipe

Result = TypeVar("Result")


def each(
    recipe: Recipe,
    graph: Graph,
    field: str | Callable[[str], str],
    steps: Iterable[str],
    find: Callable[[str], Result],
) -> dict[str, Result]:
    """Return what ``find`` gives for every step; one error tells all that is wrong, at the nodes' ``field``.

    A callable ``field`` is asked which one is wrong of a step.
    """
    results: dict[str, Result] = {}
    errors: dict[str, CheckpointError | EvalError] = {}
    for step in steps:
        try:
            results[step] = find(step)
        except (CheckpointError, EvalError) as error:
            wrong = graph.steps[step].port or (field if isinstance(field, str) else field(step))
            errors.setdefault(placed(recipe, graph.steps[step].node, wrong, str(error)), error)
    if errors:
        raise type(next(iter(errors.values())))("\n".join(errors))
    return results


@contextmanager
def located_plan_errors(recipe: Recipe) -> Iterator[None]:
    """Add the place in the recipe to every ``PlanError`` that is about values of it."""
    try:
        yield
    except PlanError as error:
        if not error.diagnostics:
            raise
        locate = recipe.document.source_map.locate
        raise PlanError.of(in_file_order(map(locate, error.diagnostics))) from error


def placed(recipe: Recipe, node: str, field: str, message: str) -> str:
    """Return a message with the place of a node's field."""
    return str(recipe.document.source_map.value(("nodes", node, field)).diagnostic(message, node))
