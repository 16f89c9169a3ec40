"""Merges a recipe over the one that it ``extends``, which may itself extend a third."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from lines_pipeline.core.diagnostics import FieldPath, SourceLocation
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.printable import shortened
from lines_pipeline.recipe.syntax.source_map import Document, SourceMap, value_at
from lines_pipeline.recipe.syntax.yaml_source import parse_yaml, read_text

MAX_FILES = 20
_MERGEKIT = ("merge_method", "models", "slices", "base_model", "gate_mode", "tokenizer_source", "tokenizer")
"""Keys at the top of mergekit's files, which no recipe has."""


def read_chain(path: FilePath) -> tuple[Document, str, tuple[FilePath, ...]]:
    """Return the recipe at ``path`` merged over all that it extends, its own text, and the real paths of all files.

    Raises RecipeError with file and line.
    """
    source = read_text(path)
    layers = [_document(source, path)]
    files = [_resolved(path, SourceLocation(str(path)))]
    while (base := layers[-1].data.get("extends")) is not None:
        location = layers[-1].source_map.value(("extends",))
        target = files[-1].parent / _base_path(base, location)
        resolved = _resolved(target, location)
        if resolved in files:
            names = [file.name for file in [*files[files.index(resolved) :], target]]
            raise RecipeError.at(location, f"recipes extend each other in a circle: {' -> '.join(names)}")
        if len(files) >= MAX_FILES:
            raise RecipeError.at(location, f"a chain of more than {MAX_FILES} recipes, expected fewer")
        layers.append(_document(read_text(target, location), target))
        files.append(resolved)
    return _stacked(layers), source, tuple(files)


def _resolved(path: FilePath, location: SourceLocation) -> FilePath:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise RecipeError.at(location, f"cannot read '{path}': {error}") from error


def _base_path(base: Any, location: SourceLocation) -> FilePath:
    if not isinstance(base, str) or not base:
        raise RecipeError.at(location, f"'extends' is {shortened(repr(base))}, expected the path of one recipe")
    if "${" in base:
        raise RecipeError.at(
            location, f"'extends' is '{shortened(base)}', expected a plain path: it is read before any variable"
        )
    try:
        return FilePath(base).expanduser()
    except RuntimeError as error:
        raise RecipeError.at(
            location, f"'extends' is '{shortened(base)}', and {error}; write the whole path"
        ) from error


def _document(text: str, path: FilePath) -> Document:
    data, source_map = parse_yaml(text, str(path))
    if data is None:
        raise RecipeError.at(source_map.value(()), "the file is empty, expected a recipe with 'name' and 'nodes'")
    if not isinstance(data, Mapping):
        raise RecipeError.at(
            source_map.value(()), "expected a recipe, a map with 'name' and 'nodes', at the top of the file"
        )
    foreign = [key for key in _MERGEKIT if key in data]
    if foreign and "nodes" not in data:
        listed = ", ".join(f"'{key}'" for key in foreign)
        raise RecipeError.at(
            source_map.key((foreign[0],)),
            f"this is a mergekit file ({listed}), which is no recipe: write its models as 'load' nodes and its "
            "method as an op (lines-pipeline ops lists them)",
        )
    return Document(data, source_map)


def _stacked(layers: list[Document]) -> Document:
    document = layers[-1]
    for layer in reversed(layers[:-1]):
        document = _merged(document, layer)
    data = {key: value for key, value in document.data.items() if key != "extends"}
    return _with_all_plugins(Document(data, document.source_map), layers)


def _with_all_plugins(document: Document, layers: list[Document]) -> Document:
    """Return the document with the plug-ins of all layers, the innermost first: each layer's nodes need its own."""
    lists = [(layer.data.get("plugins"), layer.source_map) for layer in reversed(layers)]
    named = [
        (entry, source_map.value(("plugins", index)))
        for entries, source_map in lists
        if isinstance(entries, list)
        for index, entry in enumerate(entries)
    ]
    if not named or not isinstance(document.data["plugins"], list):
        return document
    outside = document.source_map.without(("plugins",))
    top: dict[FieldPath, SourceLocation] = {("plugins",): document.source_map.value(("plugins",))}
    entries: dict[FieldPath, SourceLocation] = {
        ("plugins", index): location for index, (_, location) in enumerate(named)
    }
    source_map = SourceMap({**outside.values, **top, **entries}, {**outside.keys, **top})
    return Document({**document.data, "plugins": [entry for entry, _ in named]}, source_map)


def _merged(under: Document, over: Document) -> Document:
    hidden = {path for path in over.source_map.values if path and not _both_maps(under.data, over.data, path)}
    return Document(
        _without_removed_nodes(under.data, _deep(under.data, over.data)),
        SourceMap(
            {**_kept(under.source_map.values, hidden), **over.source_map.values},
            {**_kept(under.source_map.keys, hidden), **over.source_map.keys},
        ),
    )


def _without_removed_nodes(under: Any, merged: Any) -> Any:
    """Drop the nodes of ``under`` that the recipe over it writes as null."""
    known, nodes = under.get("nodes"), merged.get("nodes")
    if not (isinstance(known, Mapping) and isinstance(nodes, Mapping)):
        return merged
    kept = {name: fields for name, fields in nodes.items() if fields is not None or known.get(name) is None}
    return {**merged, "nodes": kept}


def _kept(source_map: Mapping[Any, SourceLocation], hidden: set[Any]) -> dict[Any, SourceLocation]:
    return {
        path: location
        for path, location in source_map.items()
        if not any(path[:length] in hidden for length in range(1, len(path) + 1))
    }


def _both_maps(under: Any, over: Any, path: Any) -> bool:
    try:
        return isinstance(value_at(under, path), Mapping) and isinstance(value_at(over, path), Mapping)
    except KeyError:
        return False


def _deep(under: Any, over: Any) -> Any:
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return over
    return {**under, **{key: _deep(under.get(key), value) for key, value in over.items()}}
