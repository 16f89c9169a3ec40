"""Maps every key and value of a recipe to the file, line and column where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lines_pipeline.core.errors import Diagnostic, RecipeError

Path = tuple[str | int, ...]
"""The way from the top of a recipe to a value: keys and list indices."""


@dataclass(frozen=True)
class SourceLocation:
    """Names a spot in a file; lines and columns count from 1, 0 where there are none (``--set``)."""

    file: str
    line: int = 0
    column: int = 0

    def diagnostic(self, message: str, node: str = "") -> Diagnostic:
        """Return a diagnostic at this spot."""
        return Diagnostic(self.file, self.line, self.column, message, node)

    def error(self, message: str) -> RecipeError:
        """Return an error with one diagnostic at this spot."""
        return RecipeError([self.diagnostic(message)])


@dataclass(frozen=True)
class SourceMap:
    """Maps paths to the spots of a recipe's values and keys."""

    values: Mapping[Path, SourceLocation]
    keys: Mapping[Path, SourceLocation] = field(default_factory=dict)

    def value(self, path: Path) -> SourceLocation:
        """Return the spot of the value at ``path``, or of the nearest value around it that was written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return SourceLocation("recipe")

    def key(self, path: Path) -> SourceLocation:
        """Return the spot of the key that ends ``path``; for a list entry, of its value."""
        return self.keys.get(path) or self.value(path)

    def without(self, path: Path) -> SourceMap:
        """Return the map without ``path`` and everything under it."""
        return SourceMap(_outside(self.values, path), _outside(self.keys, path))


@dataclass(frozen=True)
class Document:
    """Holds the values of a recipe file, and their spots."""

    data: Any
    source_map: SourceMap


def _outside(source_map: Mapping[Path, SourceLocation], path: Path) -> dict[Path, SourceLocation]:
    return {at: location for at, location in source_map.items() if at[: len(path)] != path}


def spoken(path: Iterable[str | int]) -> str:
    """Return a path as users write it: ``nodes.merged.weights[2]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def value_at(data: Any, path: Path) -> Any:
    """Return the value at ``path`` in nested mappings and lists; KeyError where there is none."""
    for part in path:
        if not holds(data, part):
            raise KeyError(spoken(path))
        data = data[part]
    return data


def value_towards(data: Any, path: Path) -> Any:
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


def replaced(data: Any, path: Path, value: Any) -> Any:
    """Return a copy of ``data`` in which ``path`` holds ``value``; mappings that are missing on the way are made."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list | tuple):
        return [replaced(entry, rest, value) if index == head else entry for index, entry in enumerate(data)]
    inside = data.get(head, {}) if isinstance(data, Mapping) else {}
    return {**(data if isinstance(data, Mapping) else {}), head: replaced(inside, rest, value)}
