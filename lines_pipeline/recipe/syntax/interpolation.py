"""Fills ``${name}`` from ``vars`` and ``${env:NAME}`` from the environment into a recipe's values.

``$${`` stands for a literal ``${``. Values are looked up, never evaluated: no expression language, no imports.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath, SourceLocation
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.scalars import read_spelled, scalar_text
from lines_pipeline.core.secrets import without_credentials
from lines_pipeline.recipe.syntax.source_map import SourceMap

MAX_WEIGHT = 200_000
"""The most that all references of a recipe may bring in, counted in values and 64 characters of text."""
MAX_CHAIN = 50

_TOKEN = re.compile(r"\$\$\{|\$\{(?P<name>[^{}]*)\}|\$\{")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class _Unresolved(Exception):
    """Ends the filling of a reference whose diagnostic is already on the list."""


class Interpolation(ABC):
    """Fills references in one walk over a recipe; what it cannot fill it leaves as written, with a diagnostic."""

    def __init__(self, variables: Mapping[str, Any], source_map: SourceMap) -> None:
        self.variables = variables
        self.source_map = source_map
        self.diagnostics: dict[Diagnostic, None] = {}
        self._known: dict[str, Any] = {}
        self._failed: set[str] = set()
        self._failures = 0
        self._chain: list[str] = []
        self._weight = 0

    @abstractmethod
    def environment(self, name: str, location: SourceLocation) -> Any:
        """Return the value for ``${env:name}`` where it is a whole string."""

    @abstractmethod
    def escape(self) -> str:
        """Return the text for ``$${``."""

    def fill(self, value: Any, path: FieldPath) -> Any:
        """Return ``value``, which stands at ``path``, with all references in it filled."""
        if isinstance(value, Mapping):
            return {key: self.fill(inside, (*path, key)) for key, inside in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill(inside, (*path, index)) for index, inside in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return self._text(value, self.source_map.value(path))
        except _Unresolved:
            self._failures += 1
            return value

    def _text(self, text: str, location: SourceLocation) -> Any:
        whole = _TOKEN.fullmatch(text)
        if whole and whole["name"] is not None:
            return self._reference(whole["name"], location)
        return _TOKEN.sub(lambda token: self._part(token, location), text)

    def _part(self, token: re.Match[str], location: SourceLocation) -> str:
        if token[0] == "$${":
            return self.escape()
        if token["name"] is None:
            raise self._refused(location, "found '${' without '}' after a name; write '$${' for a literal '${'")
        value = self._reference(token["name"], location)
        if value is None or isinstance(value, Mapping | list):
            kind = "nothing" if value is None else "a map" if isinstance(value, Mapping) else "a list"
            raise self._refused(location, f"'${{{token['name']}}}' is {kind}, which cannot be put into a text")
        return scalar_text(value)

    def _reference(self, name: str, location: SourceLocation) -> Any:
        name = name.strip()
        if not name.startswith("env:"):
            value = self._variable(name, location)
        elif _ENV_NAME.fullmatch(name[4:]):
            value = self.environment(name[4:], location)
        else:
            raise self._refused(location, f"'{name[4:]}' is not the name of an environment variable")
        self._weight += _weight(value)
        if self._weight > MAX_WEIGHT:
            raise self._refused(location, "the references in this recipe bring in too much; write a smaller recipe")
        return value

    def _variable(self, name: str, location: SourceLocation) -> Any:
        if name in self._known:
            return self._known[name]
        if name in self._failed:
            raise _Unresolved(name)
        if name in self._chain:
            raise self._circle([*self._chain[self._chain.index(name) :]])
        if len(self._chain) >= MAX_CHAIN:
            raise self._refused(location, f"vars use each other more than {MAX_CHAIN} deep")
        self._chain.append(name)
        try:
            self._known[name] = self._looked_up(name, location)
        except _Unresolved:
            self._failed.add(name)
            raise
        finally:
            self._chain.pop()
        return self._known[name]

    def _looked_up(self, name: str, location: SourceLocation) -> Any:
        value: Any = self.variables
        path: FieldPath = ("vars",)
        for part in name.split("."):
            value = self._strict(value, path) if isinstance(value, str) else value
            key = int(part) if isinstance(value, list | tuple) and part.isdecimal() else part
            inside = dict(enumerate(value)) if isinstance(value, list | tuple) else value
            if not isinstance(inside, Mapping) or key not in inside:
                known = list(inside) if isinstance(inside, Mapping) and inside is not self.variables else []
                raise self._unknown(name, [str(key) for key in known], location)
            value, path = inside[key], (*path, key)
        return self._strict(value, path)

    def _strict(self, value: Any, path: FieldPath) -> Any:
        """Fill as ``fill`` does, but end the reference that asked for what cannot be filled."""
        before = self._failures
        filled = self.fill(value, path)
        if self._failures > before:
            raise _Unresolved
        return filled

    def _unknown(self, name: str, inside: list[str], location: SourceLocation) -> _Unresolved:
        prefix = name.rpartition(".")[0]
        known = [f"{prefix}.{key}" for key in inside] or list(self.variables)
        listed = ", ".join(sorted(known)[:8]) or "none"
        return self._refused(location, f"unknown variable '{name}'{did_you_mean(name, known)}; vars has: {listed}")

    def _circle(self, names: list[str]) -> _Unresolved:
        first = names.index(min(names))
        names = names[first:] + names[:first]
        location = self.source_map.value(("vars", *names[0].split(".")))
        return self._refused(location, f"vars use each other in a circle: {' -> '.join([*names, names[0]])}")

    def _refused(self, location: SourceLocation, message: str) -> _Unresolved:
        self.diagnostics[location.diagnostic(message)] = None
        return _Unresolved(message)


class ForRunning(Interpolation):
    """Fills every reference: a run works with the result."""

    def __init__(self, variables: Mapping[str, Any], source_map: SourceMap, environ: Mapping[str, str]) -> None:
        super().__init__(variables, source_map)
        self._environ = environ
        self.used: dict[str, str] = {}
        """What was taken from the environment, by name."""

    def environment(self, name: str, location: SourceLocation) -> Any:
        """Return the variable's value, read as YAML reads a number or a truth value, and as text otherwise."""
        if name not in self._environ:
            near = did_you_mean(name, self._environ)
            raise self._refused(location, f"the environment variable {name} is not set{near}; set it before running")
        text = self.used[name] = self._environ[name]
        try:
            value = read_spelled(text)
        except ValueError:
            return text
        return text if value is None else value

    def escape(self) -> str:
        """Return a literal ``${``."""
        return "${"


class ForRecording(Interpolation):
    """Fills ``vars`` and leaves the environment by name: what may be hashed, shown and tracked.

    Credentials in URLs become ``***``, wherever they come from.
    """

    def fill(self, value: Any, path: FieldPath) -> Any:
        """Fill as for a run, but hide secrets."""
        filled = super().fill(value, path)
        return without_credentials(filled) if isinstance(filled, str) else filled

    def environment(self, name: str, location: SourceLocation) -> Any:
        """Return the reference itself."""
        return f"${{env:{name}}}"

    def escape(self) -> str:
        """Return the escape itself, so that the text reads back the same."""
        return "$${"


def recorded_names(data: Any, recorded: Any) -> dict[str, str]:
    """Return, by text, what records have in place of names, items, tasks and values that come from the environment."""
    pairs: list[tuple[Any, Any]] = [(_inside(data, "name"), _inside(recorded, "name"))]
    for fields, shown in _shared(_inside(data, "nodes"), _inside(recorded, "nodes")):
        for listed, names in _shared(_inside(fields, "for_each"), _inside(shown, "for_each")):
            pairs += _shared(listed, names)
        pairs += _shared(_inside(fields, "tasks"), _inside(shown, "tasks"))
        pairs.append((_inside(fields, "target"), _inside(shown, "target")))
    spaces = _inside(_inside(data, "tune"), "parameters"), _inside(_inside(recorded, "tune"), "parameters")
    for space, shown in _shared(*spaces):
        pairs += _shared(_inside(space, "values"), _inside(shown, "values"))
    scalars = (str, int, float)
    return {
        scalar_text(value): name
        for value, name in pairs
        if isinstance(value, scalars) and isinstance(name, str) and "${env:" in name and value != name
    }


def _inside(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _shared(values: Any, recorded: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of entries of two maps or two lists that stand at the same place."""
    if isinstance(values, Mapping) and isinstance(recorded, Mapping):
        return [(values[key], recorded[key]) for key in values if key in recorded]
    return list(zip(values, recorded, strict=False)) if isinstance(values, list) and isinstance(recorded, list) else []


def referenced(value: Any) -> set[str]:
    """Return the first parts of all variable names that ``value`` refers to."""
    if isinstance(value, Mapping):
        return set().union(*(referenced(inside) for inside in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(referenced(inside) for inside in value))
    if not isinstance(value, str):
        return set()
    names = (token["name"] for token in _TOKEN.finditer(value) if token["name"])
    return {name.strip().split(".")[0] for name in names if not name.strip().startswith("env:")}


def environment_names(value: Any) -> set[str]:
    """Return the names of all environment variables that ``value`` refers to."""
    if isinstance(value, Mapping):
        return set().union(*(environment_names(inside) for inside in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(environment_names(inside) for inside in value))
    if not isinstance(value, str):
        return set()
    names = (token["name"].strip() for token in _TOKEN.finditer(value) if token["name"])
    return {name.removeprefix("env:") for name in names if name.startswith("env:")}


def _weight(value: Any) -> int:
    if isinstance(value, Mapping):
        return 1 + sum(_weight(inside) for inside in value.values())
    if isinstance(value, list):
        return 1 + sum(_weight(inside) for inside in value)
    return 1 + len(value) // 64 if isinstance(value, str) else 1
