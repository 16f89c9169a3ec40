"""Maps every key and value of a recipe to the file, line and column where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath, SourceLocation


@dataclass(frozen=True)
class SourceMap:
    """Maps paths to the spots of a recipe's values and keys."""

    values: Mapping[FieldPath, SourceLocation]
    keys: Mapping[FieldPath, SourceLocation] = field(default_factory=dict)

    def value(self, path: FieldPath) -> SourceLocation:
        """Return the spot of the value at ``path``, or of the nearest value around it that was written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return SourceLocation("recipe")

    def key(self, path: FieldPath) -> SourceLocation:
        """Return the spot of the key that ends ``path``; for a list entry, of its value."""
        return self.keys.get(path) or self.value(path)

    def locate(self, diagnostic: Diagnostic) -> Diagnostic:
        """Return a diagnostic, whose path leads from the top of the document, at its spot."""
        spot = self.key(diagnostic.path) if diagnostic.at_key else self.value(diagnostic.path)
        return diagnostic.located(spot)

    def without(self, path: FieldPath) -> SourceMap:
        """Return the map without ``path`` and everything under it."""
        return SourceMap(_outside(self.values, path), _outside(self.keys, path))


@dataclass(frozen=True)
class Document:
    """Holds the values of a recipe file, and their spots."""

    data: Any
    source_map: SourceMap


def _outside(source_map: Mapping[FieldPath, SourceLocation], path: FieldPath) -> dict[FieldPath, SourceLocation]:
    return {at: location for at, location in source_map.items() if at[: len(path)] != path}


def spoken(path: Iterable[str | int]) -> str:
    """Return a path as users write it: ``nodes.merged.weights[2]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def led_by_path(diagnostic: Diagnostic) -> Diagnostic:
    """Return a diagnostic whose message begins with the path; as it is where it is about a key, which it names."""
    if diagnostic.at_key or not diagnostic.path:
        return diagnostic
    return replace(diagnostic, message=f"'{spoken(diagnostic.path)}': {diagnostic.message}")


def value_at(data: Any, path: FieldPath) -> Any:
    """Return the value at ``path`` in nested mappings and lists; KeyError where there is none."""
    for part in path:
        if not holds(data, part):
            raise KeyError(spoken(path))
        data = data[part]
    return data


def value_towards(data: Any, path: FieldPath) -> Any:
    """Return the value at ``path``, or the innermost one on the way there."""
    for part in path:
        if not holds(data, part):
            return data
        data = data[part]
    return data


def holds(data: Any, part: str | int) -> bool:
    """Return whether a map has the key, or a list the index."""
    if isinstance(data, list | tuple):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, Mapping) and part in data


def replaced(data: Any, path: FieldPath, value: Any) -> Any:
    """Return a copy of ``data`` in which ``path`` holds ``value``; mappings that are missing on the way are made."""
    if not path:
        return value
    head, inner = path[0], path[1:]
    if isinstance(data, list | tuple):
        return [replaced(entry, inner, value) if index == head else entry for index, entry in enumerate(data)]
    inside = data.get(head, {}) if isinstance(data, Mapping) else {}
    return {**(data if isinstance(data, Mapping) else {}), head: replaced(inside, inner, value)}
