"""``extends``: a recipe laid over another one, which may itself extend a third."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from lines_pipeline.core.printable import shortened
from lines_pipeline.recipe.places import Document, Place, Places, value_at
from lines_pipeline.recipe.yaml_source import parse_yaml, read_text

MAX_FILES = 20
_MERGEKIT = ("merge_method", "models", "slices", "base_model", "gate_mode", "tokenizer_source", "tokenizer")
"""Keys at the top of mergekit's files, which no recipe has."""


def read_chain(path: FilePath) -> tuple[Document, str, tuple[FilePath, ...]]:
    """The recipe at ``path`` merged over all that it extends, its own text, and the real paths of all files.

    Raises RecipeError with file and line.
    """
    source = read_text(path)
    layers = [_document(source, path)]
    files = [_resolved(path, Place(str(path)))]
    while (base := layers[-1].data.get("extends")) is not None:
        place = layers[-1].places.value(("extends",))
        target = files[-1].parent / _base_path(base, place)
        resolved = _resolved(target, place)
        if resolved in files:
            names = [file.name for file in [*files[files.index(resolved) :], target]]
            raise place.error(f"recipes extend each other in a circle: {' -> '.join(names)}")
        if len(files) >= MAX_FILES:
            raise place.error(f"a chain of more than {MAX_FILES} recipes, expected fewer")
        layers.append(_document(read_text(target, place), target))
        files.append(resolved)
    return _stacked(layers), source, tuple(files)


def _resolved(path: FilePath, place: Place) -> FilePath:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise place.error(f"cannot read '{path}': {error}") from error


def _base_path(base: Any, place: Place) -> FilePath:
    if not isinstance(base, str) or not base:
        raise place.error(f"'extends' is {shortened(repr(base))}, expected the path of one recipe")
    if "${" in base:
        raise place.error(f"'extends' is '{shortened(base)}', expected a plain path: it is read before any variable")
    try:
        return FilePath(base).expanduser()
    except RuntimeError as error:
        raise place.error(f"'extends' is '{shortened(base)}', and {error}; write the whole path") from error


def _document(text: str, path: FilePath) -> Document:
    data, places = parse_yaml(text, str(path))
    if data is None:
        raise places.value(()).error("the file is empty, expected a recipe with 'name' and 'nodes'")
    if not isinstance(data, Mapping):
        raise places.value(()).error("expected a recipe, a map with 'name' and 'nodes', at the top of the file")
    foreign = [key for key in _MERGEKIT if key in data]
    if foreign and "nodes" not in data:
        listed = ", ".join(f"'{key}'" for key in foreign)
        raise places.key((foreign[0],)).error(
            f"this is a mergekit file ({listed}), which is no recipe: write its models as 'load' nodes and its "
            "method as an op (lines-pipeline ops lists them)"
        )
    return Document(data, places)


def _stacked(layers: list[Document]) -> Document:
    document = layers[-1]
    for layer in reversed(layers[:-1]):
        document = _merged(document, layer)
    data = {key: value for key, value in document.data.items() if key != "extends"}
    return Document(data, document.places)


def _merged(under: Document, over: Document) -> Document:
    hidden = {path for path in over.places.values if path and not _both_maps(under.data, over.data, path)}
    return Document(
        _deep(under.data, over.data),
        Places(
            {**_kept(under.places.values, hidden), **over.places.values},
            {**_kept(under.places.keys, hidden), **over.places.keys},
        ),
    )


def _kept(places: Mapping[Any, Place], hidden: set[Any]) -> dict[Any, Place]:
    return {
        path: place
        for path, place in places.items()
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
