"""Where in which file every key and value of a recipe was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lines_pipeline.core.errors import Diagnostic, RecipeError

Path = tuple[str | int, ...]
"""The way from the top of a recipe to a value: keys and list indices."""


@dataclass(frozen=True)
class SourceLocation:
    """A spot in a file; lines and columns count from 1, 0 where there are none (``--set``)."""

    file: str
    line: int = 0
    column: int = 0

    def diagnostic(self, message: str, node: str = "") -> Diagnostic:
        """A problem at this spot."""
        return Diagnostic(self.file, self.line, self.column, message, node)

    def error(self, message: str) -> RecipeError:
        """An error of one problem at this spot."""
        return RecipeError([self.diagnostic(message)])


@dataclass(frozen=True)
class SourceMap:
    """The spots of the values and of the keys of a recipe, by path."""

    values: Mapping[Path, SourceLocation]
    keys: Mapping[Path, SourceLocation] = field(default_factory=dict)

    def value(self, path: Path) -> SourceLocation:
        """Where the value at ``path`` stands, or the nearest value around it that was written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return SourceLocation("recipe")

    def key(self, path: Path) -> SourceLocation:
        """Where the key that ends ``path`` stands; for a list entry, where its value does."""
        return self.keys.get(path) or self.value(path)

    def without(self, path: Path) -> SourceMap:
        """The same, with ``path`` and everything under it forgotten."""
        return SourceMap(_outside(self.values, path), _outside(self.keys, path))


@dataclass(frozen=True)
class Document:
    """What a recipe file says, and where."""

    data: Any
    source_map: SourceMap


def _outside(source_map: Mapping[Path, SourceLocation], path: Path) -> dict[Path, SourceLocation]:
    return {at: location for at, location in source_map.items() if at[: len(path)] != path}


def spoken(path: Iterable[str | int]) -> str:
    """A path as users write it: ``nodes.merged.weights[2]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def value_at(data: Any, path: Path) -> Any:
    """The value at ``path`` in nested mappings and lists; KeyError where there is none."""
    for part in path:
        if not holds(data, part):
            raise KeyError(spoken(path))
        data = data[part]
    return data


def holds(data: Any, part: str | int) -> bool:
    """Whether a map has the key, or a list the index."""
    if isinstance(data, list | tuple):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, Mapping) and part in data


def replaced(data: Any, path: Path, value: Any) -> Any:
    """A copy of ``data`` in which ``path`` holds ``value``; mappings that are missing on the way are made."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list | tuple):
        return [replaced(entry, rest, value) if index == head else entry for index, entry in enumerate(data)]
    inside = data.get(head, {}) if isinstance(data, Mapping) else {}
    return {**(data if isinstance(data, Mapping) else {}), head: replaced(inside, rest, value)}
