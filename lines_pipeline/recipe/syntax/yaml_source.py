"""Reads YAML safely, and remembers the line and column of every key and value.

Works on PyYAML's events, so that limits hold while reading: no tags, no duplicate keys, no alias that grows out of
bounds, no deep nesting, one document, at most ``MAX_BYTES``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from lines_pipeline.core.diagnostics import FieldPath, SourceLocation
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.scalars import read_spelled
from lines_pipeline.recipe.syntax.source_map import SourceMap

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""The most values in a document; those that aliases repeat count every time."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class _Written:
    """Holds a value, its spot, the number of values in it and its depth."""

    value: Any
    location: SourceLocation
    size: int = 1
    depth: int = 0


@dataclass(frozen=True)
class _Pair:
    key: str
    location: SourceLocation
    value: _Written


def read_text(path: FilePath, named_at: SourceLocation | None = None, what: str = "recipe") -> str:
    """Return the text of a file that holds a recipe (or ``what`` else); RecipeError where it is none or too large.

    The error stands at ``named_at``, the place that names the file, or else at the file.
    """
    location = named_at or SourceLocation(str(path))
    try:
        if path.is_dir():
            raise RecipeError.at(location, f"'{path}' is a folder, expected a {what} file (YAML)")
        if not path.exists():
            raise RecipeError.at(location, f"'{path}' does not exist, expected a {what} file (YAML)")
        if not path.is_file():
            raise RecipeError.at(location, f"'{path}' is not a regular file, expected a {what} file (YAML)")
        return _decoded(path, what)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError.at(location, f"cannot read '{path}': {reason}") from error


def _decoded(path: FilePath, what: str) -> str:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # never waits
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        size = f"{path.stat().st_size:,} bytes"
        raise RecipeError.at(
            SourceLocation(str(path)), f"the file has {size}, expected a {what} of at most {MAX_BYTES:,} bytes"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(raw[: error.start].decode("utf-8", "replace"))
        message = f"found the byte 0x{raw[error.start]:02x}, which is not UTF-8 text; save the {what} as UTF-8"
        raise RecipeError.at(SourceLocation(str(path), line, column), message) from error


def _position(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def parse_yaml(text: str, file: str, what: str = "recipe") -> tuple[Any, SourceMap]:
    """Return the value of a YAML document and the places of its keys and values; RecipeError with line and column."""
    _refuse_surrogates(text, file)
    try:
        written = _Reader(text, file, what).document()
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, file) from error
    values: dict[FieldPath, SourceLocation] = {}
    keys: dict[FieldPath, SourceLocation] = {}
    return _plain(written, (), values, keys), SourceMap(values, keys)


def _refuse_surrogates(text: str, file: str) -> None:
    """Refuse halves of characters: bytes of the command line that are no UTF-8 become such, and no file holds them."""
    odd = _SURROGATE.search(text)
    if odd:
        surrogate = f"found U+{ord(odd.group()):04X}, half a character, expected UTF-8 text"
        raise RecipeError.at(SourceLocation(file, *_position(text[: odd.start()])), f"not valid YAML: {surrogate}")


def _refuse_surrogates_of(event: Any, location: SourceLocation) -> None:
    """Refuse escapes (``"\\ud800"``) that some YAML parsers let through."""
    if _SURROGATE.search(event.value):
        raise RecipeError.at(location, "not valid YAML: found half a character (a surrogate), expected whole ones")


def _syntax_error(error: yaml.YAMLError, text: str, file: str) -> RecipeError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        words = ": ".join(part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
        return RecipeError.at(SourceLocation(file, mark.line + 1, mark.column + 1), f"not valid YAML: {words}")
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    line, column = _position(text[: odd.start()]) if odd else (1, 1)
    fault = f"found the character U+{ord(odd.group()):04X}" if odd else str(error).splitlines()[0]
    return RecipeError.at(SourceLocation(file, line, column), f"not valid YAML: {fault}, expected printable text")


def _plain(
    written: _Written, path: FieldPath, values: dict[FieldPath, SourceLocation], keys: dict[FieldPath, SourceLocation]
) -> Any:
    values[path] = written.location
    if isinstance(written.value, dict):
        for key, pair in written.value.items():
            keys[(*path, key)] = pair.location
        return {key: _plain(pair.value, (*path, key), values, keys) for key, pair in written.value.items()}
    if isinstance(written.value, list):
        return [_plain(entry, (*path, index), values, keys) for index, entry in enumerate(written.value)]
    return written.value


class _Reader:
    """Composes one document from parser events, refusing what a recipe must not hold."""

    def __init__(self, text: str, file: str, what: str) -> None:
        self.file = file
        self.what = what
        self.anchors: dict[str, _Written] = {}
        self.total = 0
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))

    def document(self) -> _Written:
        written: _Written | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if written is not None:
                    raise RecipeError.at(
                        self.location(event), f"found a second document, expected one {self.what} in a file"
                    )
                written = self.value(next(self.events), 0)
        return written or _Written(None, SourceLocation(self.file, 1, 1))

    def location(self, event: Any) -> SourceLocation:
        return SourceLocation(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def value(self, event: Any, depth: int) -> _Written:
        """Read the value that begins with ``event``, ``depth`` levels deep; what an alias stands for is repeated."""
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, depth)
        if depth > MAX_DEPTH:
            raise RecipeError.at(self.location(event), f"nested deeper than {MAX_DEPTH} levels")
        self.refuse_tag(event)
        self.count(1, event)
        if isinstance(event, yaml.ScalarEvent):
            written = self.scalar(event)
        else:
            compose = self.mapping if isinstance(event, yaml.MappingStartEvent) else self.sequence
            written = compose(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = written
        return written

    def refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            tag = shortened(event.tag.replace("tag:yaml.org,2002:", "!!"))
            raise RecipeError.at(self.location(event), f"found the tag {tag}; tags are not allowed in a {self.what}")

    def count(self, number: int, event: Any) -> None:
        self.total += number
        if self.total > MAX_VALUES:
            message = f"more than {MAX_VALUES:,} values, those that aliases repeat included"
            raise RecipeError.at(self.location(event), f"{message}; write a smaller {self.what}")

    def alias(self, event: Any, depth: int) -> _Written:
        target = self.anchors.get(event.anchor)
        if target is None:
            raise RecipeError.at(
                self.location(event), f"found the alias *{event.anchor}, but no anchor &{event.anchor} ends before it"
            )
        if depth + target.depth > MAX_DEPTH:
            raise RecipeError.at(self.location(event), f"nested deeper than {MAX_DEPTH} levels")
        self.count(target.size, event)
        return target

    def scalar(self, event: Any) -> _Written:
        _refuse_surrogates_of(event, self.location(event))
        if not event.implicit[0]:
            return _Written(event.value, self.location(event))
        try:
            return _Written(read_spelled(event.value), self.location(event))
        except ValueError as error:
            raise RecipeError.at(self.location(event), str(error)) from error

    def sequence(self, start: Any, depth: int) -> _Written:
        entries = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            entries.append(self.value(event, depth + 1))
        return self.holding(entries, entries, start)

    def mapping(self, start: Any, depth: int) -> _Written:
        pairs: dict[str, _Pair] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key, location = self.key(event), self.location(event)
            if key in pairs:
                before = pairs[key].location
                raise RecipeError.at(location, f"duplicate key '{shortened(key)}', first written at line {before.line}")
            pairs[key] = _Pair(key, location, self.value(next(self.events), depth + 1))
        return self.holding(pairs, [pair.value for pair in pairs.values()], start)

    def key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise RecipeError.at(
                self.location(event), "found a key that is a map, a list or an alias, expected a plain name"
            )
        _refuse_surrogates_of(event, self.location(event))
        self.refuse_tag(event)
        if event.value == "<<" and event.implicit[0]:
            hint = "; use 'extends' or 'vars'" if self.what == "recipe" else ""
            raise RecipeError.at(self.location(event), f"merge keys ('<<') are not supported{hint}")
        return str(event.value)

    def holding(self, value: Any, inside: list[_Written], start: Any) -> _Written:
        size = 1 + sum(entry.size for entry in inside)
        return _Written(value, self.location(start), size, 1 + max((entry.depth for entry in inside), default=0))
