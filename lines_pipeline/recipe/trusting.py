"""Refuses what a recipe may not do unless its folder is trusted: send work, records or the environment somewhere.

Python that suites and the recipe itself name is guarded where it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import environ
from pathlib import Path as FilePath
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.trust import remedy, why_untrusted
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.building import Declared, build_graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.stock import stock_folder
from lines_pipeline.recipe.syntax.interpolation import environment_names
from lines_pipeline.recipe.syntax.source_map import value_towards

_LOCAL_SCHEDULERS = ("threads", "serial")


def require_trusted(recipe: Recipe, *, trust: bool = False) -> None:
    """Raise RecipeError for what only a trusted folder's recipe may set (``--set`` always may); not with ``trust``.

    All files of a chain of ``extends`` have to lie in trusted folders: any of them may change what another one says.
    """
    with recipe.secrets.hiding():
        if not trust:
            _require([*_addresses(recipe), *_urls(recipe)], recipe)


def trusted_graph(recipe: Recipe, *, trust: bool = False, declared: Declared = lambda step, folder: None) -> Graph:
    """Build the recipe's graph; RecipeError where it or its recipe does what only a trusted folder's recipe may.

    Objectives are checked against what suites have ``declared``.
    """
    require_trusted(recipe, trust=trust)
    with recipe.secrets.hiding():
        graph = build_graph(recipe, declared)
        if not trust:
            _require_harmless_items(recipe, graph)
    return graph


def _require_harmless_items(recipe: Recipe, graph: Graph) -> None:
    """Raise RecipeError where items from the environment end up in a URL, and the recipe's folder is not trusted."""
    names = {name for fields in recipe.recorded["nodes"].values() for name in environment_names(fields.get("for_each"))}
    values = {environ[name] for name in names if environ.get(name)}
    uses = []
    for step in graph.steps.values() if values else ():
        for path, text in _texts(step.params.model_dump(mode="json", by_alias=True), ("nodes", step.node)):
            if "://" in text and any(value in text for value in values):
                uses.append((path, "sends items from the environment as part of a URL"))
    _require(uses, recipe)


def _require(uses: list[tuple[FieldPath, str]], recipe: Recipe) -> None:
    written = [(path, use) for path, use in uses if recipe.document.source_map.value(path).line]
    folders = dict.fromkeys(file.parent for file in recipe.files if not file.is_relative_to(stock_folder()))
    for folder in folders if written else ():
        reason = why_untrusted(folder)
        if reason:
            raise RecipeError([_diagnostic(recipe, path, use, reason, folder) for path, use in written])


def _diagnostic(recipe: Recipe, path: FieldPath, use: str, reason: str, folder: FilePath) -> Diagnostic:
    node = str(path[1]) if path[0] == "nodes" else ""
    message = f"the recipe {use}, but {reason}; {remedy(folder)}"
    return recipe.document.source_map.value(path).diagnostic(message, node)


def _addresses(recipe: Recipe) -> Iterator[tuple[FieldPath, str]]:
    """Yield settings that name other machines."""
    if recipe.engine.scheduler not in _LOCAL_SCHEDULERS:
        yield ("engine", "scheduler"), "sets the address of a scheduler"
    if recipe.tracking.uri is not None:
        yield ("tracking", "uri"), "sets a tracking URI"


def _urls(recipe: Recipe) -> Iterator[tuple[FieldPath, str]]:
    """Yield URLs that hold values of the environment."""
    used = {key: value for key, value in recipe.recorded.items() if key not in ("vars", "description")}
    for path, text in _texts(used, ()):
        if environment_names(text):
            filled = value_towards(recipe.document.data, path)
            if "://" in text or "://" in str(filled):
                yield path, f"puts the environment (${{env:{min(environment_names(text))}}}) into a URL"


def _texts(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    if isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _texts(inside, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inside in enumerate(value):
            yield from _texts(inside, (*path, index))
    elif isinstance(value, str):
        yield path, value
