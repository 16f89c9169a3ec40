"""Replaces values of a recipe by path, as ``--set a.b=c`` asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath, SourceLocation
from lines_pipeline.core.errors import RecipeError, did_you_mean
from lines_pipeline.core.scalars import SpelledBool, SpelledFloat, SpelledInt
from lines_pipeline.recipe.syntax.interpolation import referenced
from lines_pipeline.recipe.syntax.source_map import Document, SourceMap, replaced, spoken
from lines_pipeline.recipe.syntax.yaml_source import parse_yaml

_SECTIONS = ("engine", "tracking", "tune")
_TOP_LEVEL = ("name", "description", "seed", *_SECTIONS)


class _Unknown(Exception):
    """Refuses a path that leads to nothing in a recipe."""


def parse_set(text: str) -> tuple[str, Any]:
    """Return path and value of ``path=value``; the value is read as YAML. RecipeError where it is no such thing."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise RecipeError.at(
            SourceLocation("--set"), f"found '{text}', expected path=value, such as nodes.scaled.beta=0.5"
        )
    return path, parse_yaml(value.strip(), f"--set {path}")[0]


def apply_sets(document: Document, sets: Mapping[str, Any]) -> tuple[Document, list[Diagnostic]]:
    """Return ``document`` with the values of ``sets`` at their paths, and the problems of those that cannot be set.

    A node that is set to null is taken out.
    """
    diagnostics = []
    for dotted, value in sets.items():
        location = SourceLocation(f"--set {dotted}")
        try:
            path = _located(document.data, dotted)
            if value is None and _is_node(document.data, path):
                document = _without_node(document, path)
                continue
            data = replaced(document.data, path, _plain(value))
        except _Unknown as unknown:
            diagnostics.append(location.diagnostic(str(unknown)))
            continue
        rest_of_map = document.source_map.without(path)
        source_map = SourceMap({**rest_of_map.values, path: location}, {**rest_of_map.keys, path: location})
        document = Document(data, source_map)
    return document, diagnostics


def _is_node(data: Mapping[str, Any], path: FieldPath) -> bool:
    return path[0] == "nodes" and len(path) == 2 and isinstance(data["nodes"], Mapping)


def _without_node(document: Document, path: FieldPath) -> Document:
    nodes = {name: fields for name, fields in document.data["nodes"].items() if name != path[1]}
    return Document({**document.data, "nodes": nodes}, document.source_map.without(path))


def _located(data: Mapping[str, Any], dotted: str) -> FieldPath:
    path: FieldPath = ()
    inside: Any = data
    parts = dotted.split(".")
    if parts[0] == "extends":
        raise _Unknown("'extends' cannot be set; set values by their paths")
    while parts:
        key, used = _step(inside, parts)
        if key is None:
            return _created(data, path, inside, parts)
        path, inside, parts = (*path, key), inside[key], parts[used:]
    return path


def entry_path(value: Any, dotted: str) -> FieldPath:
    """Return the path of an entry that is written in nested lists and maps (``1.3``), as ``--set`` takes it.

    Raises ``ValueError``, which says what there is, where none has that path.
    """
    path: FieldPath = ()
    inside, parts = value, dotted.split(".")
    while parts:
        key, used = _step(inside, parts)
        if key is None:
            raise ValueError(_entries_told(inside, parts[0]))
        path, inside, parts = (*path, key), inside[key], parts[used:]
    return path


def _entries_told(inside: Any, part: str) -> str:
    if isinstance(inside, list | tuple):
        return f"is a list of {len(inside)} here, expected an index from 0 to {len(inside) - 1}, found '{part}'"
    if isinstance(inside, Mapping):
        return f"has no entry '{part}'{did_you_mean(part, map(str, inside))}"
    return f"is no list here that could have an entry '{part}'"


def _step(inside: Any, parts: Sequence[str]) -> tuple[str | int | None, int]:
    """Return the key of ``inside`` that ``parts`` begin with (keys may hold dots), and how many parts it takes."""
    if isinstance(inside, list | tuple):
        is_index = parts[0].isdecimal() and int(parts[0]) < len(inside)
        return (int(parts[0]), 1) if is_index else (None, 0)
    if isinstance(inside, Mapping):
        for used in range(len(parts), 0, -1):
            if ".".join(parts[:used]) in inside:
                return ".".join(parts[:used]), used
    return None, 0


def _created(data: Mapping[str, Any], path: FieldPath, inside: Any, parts: Sequence[str]) -> FieldPath:
    if isinstance(inside, list | tuple):
        raise _Unknown(f"'{spoken(path)}' is a list of {len(inside)}, expected an index below that, found '{parts[0]}'")
    if inside is not None and not isinstance(inside, Mapping):
        raise _Unknown(f"'{spoken(path)}' holds {inside!r}, there is nothing to set under it")
    full = (*path, *parts)
    if not _may_create(data, path, full):
        known = [str(key) for key in inside or ()]
        known += [key for key in _TOP_LEVEL if not path and key not in known]
        nodes = data.get("nodes")
        of_node = not path and isinstance(nodes, Mapping) and parts[0] in nodes
        hint = f" (did you mean 'nodes.{spoken(full)}'?)" if of_node else did_you_mean(parts[0], known)
        raise _Unknown(f"unknown path: {_where(path)} has no '{parts[0]}'{hint}")
    if full[:2] == ("tune", "parameters") and len(full) > 3:
        end = next((n for n in range(4, len(full)) if not str(full[n]).isdecimal()), len(full))
        return (*full[:2], ".".join(map(str, full[2:end])), *full[end:])
    return full


def _where(path: FieldPath) -> str:
    return f"'{spoken(path)}'" if path else "the recipe"


def _may_create(data: Mapping[str, Any], path: FieldPath, full: FieldPath) -> bool:
    """Return whether a path may be new: a name that the schema or an op checks later, a variable in use."""
    if full[0] == "vars":
        return len(path) < 2 and len(full) == 2 and full[1] in referenced(data)
    if full[0] == "nodes":
        return len(path) >= 2
    return full[0] in (_SECTIONS if len(full) > 1 else _TOP_LEVEL)


def _plain(value: Any) -> Any:
    """Return a Python value as YAML would have read it."""
    if value is None or isinstance(value, bool | str | SpelledBool | SpelledInt | SpelledFloat):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    if isinstance(value, PathLike):
        return str(fspath(value))
    raise _Unknown(f"found a value of type {type(value).__name__}, expected a text, number, truth value, list or map")
