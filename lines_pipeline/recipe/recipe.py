"""Holds a recipe that has been read: settings, nodes, and the texts it is known by."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import yaml

from lines_pipeline.core.diagnostics import FieldPath, SourceLocation
from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.core.scalars import (
    SpelledBool,
    SpelledFloat,
    SpelledInt,
    read_scalar,
    scalar_text,
    unspelled,
)
from lines_pipeline.core.secrets import NO_SECRETS, Secrets
from lines_pipeline.recipe.binding.items import fill_items, read_items
from lines_pipeline.recipe.binding.varying import BY_NAME
from lines_pipeline.recipe.plugins import Plugins
from lines_pipeline.recipe.schema import Engine, Settings, Tracking, Tune
from lines_pipeline.recipe.syntax.overrides import entry_path
from lines_pipeline.recipe.syntax.source_map import Document, SourceMap, replaced

if TYPE_CHECKING:
    from lines_pipeline.graph.graph import Step

_NOT_IN_HASH = ("engine", "tracking", "description", "vars", "extends")


@dataclass(frozen=True)
class Recipe:
    """Holds a recipe with ``extends`` merged, ``--set`` applied and every reference filled.

    ``document`` holds the values to run with, ``recorded`` the same with the environment left by name
    (``${env:NAME}``): only that may be written down. ``source`` is the recipe file's text, ``sets`` what
    ``--set`` changed; ``files`` are the recipe's file and those that it extends.
    """

    path: FilePath
    source: str
    settings: Settings
    document: Document
    recorded: Mapping[str, Any]
    secrets: Secrets = NO_SECRETS
    sets: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[FilePath, ...] = ()
    """The real paths of the recipe's file and of all that it extends."""
    plugins: Plugins = field(default_factory=Plugins)
    """The Python files that it names, and what they add."""

    @property
    def name(self) -> str:
        """Return the recipe's name, a slug."""
        return self.settings.name

    @property
    def description(self) -> str:
        """Return what the recipe says it is for."""
        return self.settings.description

    @property
    def seed(self) -> int:
        """Return the seed of everything random."""
        return self.settings.seed

    @property
    def tune(self) -> Tune | None:
        """Return what to search, if anything."""
        return self.settings.tune

    @property
    def engine(self) -> Engine:
        """Return how to run it."""
        return self.settings.engine

    @property
    def tracking(self) -> Tracking:
        """Return where runs of the recipe are recorded."""
        return self.settings.tracking

    @property
    def folder(self) -> FilePath:
        """Return the folder that relative input paths start from."""
        return self.path.parent

    @property
    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the nodes' fields, filled."""
        nodes: Mapping[str, Mapping[str, Any]] = self.document.data["nodes"]
        return nodes

    def canonical(self) -> str:
        """Return JSON, equal for equal recipes whatever the order of their keys and how they are run or recorded.

        Plug-ins are in it with the digest of their content.
        """
        kept = {key: value for key, value in self.recorded.items() if key not in _NOT_IN_HASH and value is not None}
        nodes = {name: _canonical_node(fields) for name, fields in kept["nodes"].items()}
        plugins = {"plugins": self.plugins.digests} if self.plugins.files else {}
        return canonical_json({**kept, "nodes": nodes, **plugins})

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 of ``canonical``, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def resolved(self) -> str:
        """Return the recipe as YAML that stands alone: one file, no ``vars``, the environment by name."""
        kept = {key: value for key, value in self.recorded.items() if key not in ("vars", "extends")}
        return _yaml(kept)

    def published(self) -> str:
        """Return YAML as ``resolved`` does, without what only says how the recipe is run or recorded."""
        return _yaml({key: value for key, value in self.recorded.items() if key not in _NOT_IN_HASH})

    def recorded_path(self, step: Step) -> str:
        """Return the path that a step's node names, with its item filled in and the environment by name."""
        fields = self.document.data["nodes"][step.node]
        items = read_items(fields["for_each"])[0] if "for_each" in fields else ()
        names = next((item.names for item in items if item.key == step.item), {})
        written = self.recorded["nodes"][step.node][step.port or "path"]
        return str(fill_items(written, self.secrets.hidden(names)))

    def wholes_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the parameters, as recorded, that ``names`` are entries of: ``scaled.table`` of ``scaled.table.2``."""
        entries = (name.split(".", 2) for name in names if name.count(".") > 1)
        return {f"{node}.{parameter}": self.recorded["nodes"][node][parameter] for node, parameter, _ in entries}

    def with_values(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with other parameter values; KeyError for an unknown node, ValueError for an unknown entry.

        They go by node and parameter, and by entry where they are within a list: ``{"scaled.beta": 0.4,
        "scaled.table.2": 1.0}``.
        """
        data, recorded, source_map = self.document.data, self.recorded, self.document.source_map
        kept, keys = dict(source_map.values), dict(source_map.keys)
        for name, value in values.items():
            node, _, parameter = name.partition(".")
            if node not in self.nodes or not parameter:
                raise KeyError(name)
            path = ("nodes", node, *_parameter_path(self.nodes[node], parameter))
            plain = list(value) if isinstance(value, tuple) else value
            shown = self.secrets.labels.get(plain, plain) if isinstance(plain, str) else plain
            data, recorded = replaced(data, path, plain), replaced(recorded, path, shown)
            kept[path] = keys[path] = source_map.keys.get(("tune", "parameters", name)) or SourceLocation(
                f"value of {name}"
            )
        return replace(self, document=Document(data, SourceMap(kept, keys)), recorded=recorded)


def _parameter_path(fields: Mapping[str, Any], name: str) -> FieldPath:
    """Return the path, from a node on, of a parameter, or of an entry in it (``table.2``)."""
    parameter, _, entry = name.partition(".")
    return (parameter, *(entry_path(fields.get(parameter), entry) if entry else ()))


def _canonical_node(fields: Mapping[str, Any]) -> dict[str, Any]:
    node = {**{key: _with_order(value) for key, value in fields.items()}, "op": str(fields["op"]).lower()}
    return node | {"for_each": _with_spellings(fields["for_each"])} if "for_each" in fields else node


def _with_order(value: Any) -> Any:
    """Return globs of ``by_name`` as pairs of glob and number: the first one that matches counts."""
    if isinstance(value, list):
        return [_with_order(inside) for inside in value]
    if not isinstance(value, Mapping):
        return value
    if isinstance(value.get(BY_NAME), Mapping):
        return {**value, BY_NAME: [[glob, number] for glob, number in value[BY_NAME].items()]}
    return {key: _with_order(inside) for key, inside in value.items()}


def _with_spellings(value: Any) -> Any:
    """Return items as pairs of value and spelling, where that is not Python's: it names members and files."""
    if isinstance(value, Mapping):
        return {key: _with_spellings(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_with_spellings(inside) for inside in value]
    plain = unspelled(value)
    return value if plain is value else [plain, scalar_text(value)]


class _Dumper(yaml.SafeDumper):
    """Dumps short values on one line, without anchors; quotes text that a YAML 1.1 or 1.2 reader could misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(data: Mapping[str, Any]) -> str:
    parts = []
    for key, value in data.items():
        if key in ("nodes", "vars") and isinstance(value, Mapping):
            parts.append(f"{key}:\n" + "".join(f"  {_line({name: inside})}" for name, inside in value.items()))
        else:
            parts.append(_line({key: value}))
    return "".join(parts)


def _line(data: Mapping[str, Any]) -> str:
    """Return one block-style key with a flow-style value."""
    (key, value), *_ = data.items()
    text = io.StringIO()
    yaml.dump(_quoted(value), text, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**6)
    name = yaml.dump(key, Dumper=_Dumper, width=10**6).removesuffix("...\n").strip()
    return f"{name}: {text.getvalue().removesuffix('...' + chr(10)).strip()}\n"


class _Quoted(str):
    """Marks text to be written in quotes."""


class _Spelled(str):
    """Marks a number or truth value to be written with its spelling."""


def _spelled(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # What YAML 1.1 makes of it: or a tag would be written.
    tag = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return dumper.represent_scalar(tag, str(text))


_Dumper.add_representer(_Spelled, _spelled)
_Dumper.add_representer(_Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _quoted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _quoted(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_quoted(inside) for inside in value]
    if isinstance(value, SpelledInt | SpelledFloat | SpelledBool):
        return _Spelled(value.spelling)
    if isinstance(value, str):
        try:
            return value if read_scalar(value) == value else _Quoted(value)
        except ValueError:
            return _Quoted(value)
    return value
