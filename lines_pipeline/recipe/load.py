"""Reads a recipe file: YAML, ``extends``, ``--set``, references, settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.scalars import SpelledBool, scalar_text
from lines_pipeline.core.secrets import Secrets
from lines_pipeline.recipe.binding.validation import validated
from lines_pipeline.recipe.plugins import Plugins, find_plugins
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.schema import Settings
from lines_pipeline.recipe.syntax.extends import read_chain
from lines_pipeline.recipe.syntax.interpolation import ForRecording, ForRunning, recorded_names
from lines_pipeline.recipe.syntax.overrides import apply_sets
from lines_pipeline.recipe.syntax.source_map import Document, holds, led_by_path, replaced, value_at

_NAMES = ("path", "tasks", "target")
"""Fields of nodes that hold names, also such as look like numbers (``tasks: [2024, 1.10]``)."""
_MAY_BE_EMPTY = ("description", "seed", "vars", "tune", "engine", "tracking", "plugins")


def load_recipe(path: str | FilePath, sets: Mapping[str, Any] = {}, *, trust: bool = False) -> Recipe:
    """Return the recipe at ``path`` with the values of ``sets`` (``{"nodes.scaled.beta": 0.4}``) in place of its own.

    RecipeError tells every mistake at once; where the top level has some, those of the nodes are told as well.
    Relative paths in the recipe are relative to its folder. Python that it names is found, but not run; ``trust`` lets
    it run later, wherever it lies.
    """
    path = FilePath(path)
    document, source, files = read_chain(path)
    document, diagnostics = apply_sets(document, sets)
    document = _without_empty(document)
    document, recorded, of_references, secrets = _filled(document)
    diagnostics = _first_of_each_spot(diagnostics, of_references)
    plugins, of_plugins = find_plugins(document, path, files, trust=trust)
    with secrets.hiding():
        settings = _checked(
            document, recorded, _first_of_each_spot(diagnostics, of_plugins), None if of_plugins else plugins
        )
    return Recipe(path, source, settings, document, recorded, secrets, dict(sets), files, plugins)


def _checked(
    document: Document, recorded: Mapping[str, Any], diagnostics: list[Diagnostic], plugins: Plugins | None
) -> Settings:
    settings, of_settings = validated(Settings, document.data, recorded, ["extends"])
    diagnostics = _first_of_each_spot(diagnostics, [_located(document, diagnostic) for diagnostic in of_settings])
    if diagnostics or settings is None:
        of_nodes = _node_diagnostics(document, recorded, settings, plugins)
        raise RecipeError(_first_of_each_spot(diagnostics, of_nodes))
    return settings


def _without_empty(document: Document) -> Document:
    """Drop sections that are written but hold nothing: they count as not written."""
    kept = {key: value for key, value in document.data.items() if value is not None or key not in _MAY_BE_EMPTY}
    return Document(kept, document.source_map)


def _filled(document: Document) -> tuple[Document, Mapping[str, Any], list[Diagnostic], Secrets]:
    variables = document.data.get("vars")
    variables = variables if isinstance(variables, Mapping) else {}
    running = ForRunning(variables, document.source_map, os.environ)
    data = _with_texts(running.fill(document.data, ()))
    recorded = _with_texts(ForRecording(variables, document.source_map).fill(document.data, ()))
    secrets = Secrets(running.used, recorded_names(data, recorded))
    return Document(data, document.source_map), recorded, list(running.diagnostics), secrets


def _with_texts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Turn names and tags that were written as numbers into texts; elsewhere only items keep their spelling."""
    plain = {key: inside if key == "vars" else _without_spelled_truth(inside) for key, inside in data.items()}
    nodes = data.get("nodes")
    if isinstance(nodes, Mapping):
        plain["nodes"] = {name: _node_with_texts(fields) for name, fields in nodes.items()}
    tags = value_at(plain, ("tracking", "tags")) if holds(plain.get("tracking"), "tags") else None
    if isinstance(tags, Mapping):
        plain = replaced(
            plain, ("tracking", "tags"), {key: _as_text(value) for key, value in data["tracking"]["tags"].items()}
        )
    return plain


def _as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, Mapping | list) else scalar_text(value)


def _node_with_texts(fields: Any) -> Any:
    if not isinstance(fields, Mapping):
        return _without_spelled_truth(fields)
    return {key: _field_with_texts(key, inside) for key, inside in fields.items()}


def _field_with_texts(key: str, value: Any) -> Any:
    if key == "for_each":
        return value
    if key in _NAMES and isinstance(value, list):
        return [_field_with_texts(key, entry) for entry in value]
    return _as_text(value) if key in _NAMES else _without_spelled_truth(value)


def _without_spelled_truth(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_spelled_truth(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_without_spelled_truth(inside) for inside in value]
    return value.value if isinstance(value, SpelledBool) else value


def _located(document: Document, diagnostic: Diagnostic) -> Diagnostic:
    """Return a diagnostic at its spot, with its node, or else its message led by the path."""
    located, path = document.source_map.locate(diagnostic), diagnostic.path
    if path[:1] == ("nodes",) and len(path) > 1:
        return replace(located, node=str(path[1]))
    return led_by_path(located)


def _node_diagnostics(
    document: Document, recorded: Mapping[str, Any], settings: Settings | None, plugins: Plugins | None
) -> list[Diagnostic]:
    """Return the diagnostics of the nodes; none where their ops are not known, for want of ``plugins``."""
    from lines_pipeline.recipe.binding.graphs import checked_graph

    nodes = document.data.get("nodes")
    if not isinstance(nodes, Mapping) or not nodes or plugins is None:
        return []
    return checked_graph(document, recorded, settings.tune if settings else None, plugins)[1]


def _first_of_each_spot(known: list[Diagnostic], later: list[Diagnostic]) -> list[Diagnostic]:
    """Return ``known``, and those of ``later`` at other spots: what follows from a mistake is not told as a second."""
    taken = {diagnostic.location for diagnostic in known}
    return known + [diagnostic for diagnostic in later if diagnostic.location not in taken]
