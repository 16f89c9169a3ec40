"""``for_each``: the items of a collection, and the ``{item}`` that stands for them in a node's strings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.scalars import scalar_text
from lines_pipeline.recipe.binding.ranges import listed_range
from lines_pipeline.recipe.binding.validation import MAX_DIAGNOSTICS, described

MAX_ITEMS = 10_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)
_KEY = re.compile(r"[^\[\]{}\x00-\x1f]{1,200}")


@dataclass(frozen=True)
class Item:
    """Holds one member of a collection: its key, and what each declared name stands for in it.

    In a product, ``mapped`` and ``own`` are its keys in the collections that the node maps over, and in the node's own
    ``for_each``; elsewhere both are the key.
    """

    key: str
    names: Mapping[str, Any]
    mapped: str
    own: str

    @classmethod
    def single(cls, key: str, names: Mapping[str, Any]) -> Item:
        """Return a member of a node that is no product."""
        return cls(key, names, key, key)

    @classmethod
    def combined(cls, mapped: Item, own: Item) -> Item:
        """Return a member of a product."""
        return cls(f"{mapped.key}/{own.key}", {**mapped.names, **own.names}, mapped.key, own.key)


class Items:
    """Holds all members of a node, and which of them, or of a product's two sides, a map by item names."""

    def __init__(self, rows: Iterable[Item]) -> None:
        self.rows = tuple(rows)
        keys = dict.fromkeys(row.key for row in self.rows)
        self.mapped = {key: index for index, key in enumerate(dict.fromkeys(row.mapped for row in self.rows))}
        own = dict.fromkeys(row.own for row in self.rows)
        self._sides: dict[str, dict[str, Any]] = {"key": keys, "mapped": self.mapped, "own": own}
        self._chosen: dict[str, tuple[str, Mapping[str, Any], list[Diagnostic]] | None] = {}

    def chosen(self, name: str, value: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[Diagnostic]] | None:
        """Return the side (a field of ``Item``) that a parameter's map goes by, values by key, and diagnostics.

        None where the map names no item: it is then a value like any other. Worked out once a parameter.
        """
        if name not in self._chosen:
            self._chosen[name] = self._looked_up(name, value)
        return self._chosen[name]

    def _looked_up(self, name: str, value: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[Diagnostic]] | None:
        equal = [side for side, keys in self._sides.items() if value.keys() == keys.keys()]
        alike = [side for side, keys in self._sides.items() if value.keys() & keys.keys()]
        if not equal + alike:
            return None
        side = (equal + alike)[0]
        listed, diagnostics = by_item(value, self._sides[side], (name,))
        return side, dict(zip(self._sides[side], listed, strict=False)), diagnostics


def read_items(raw: Any) -> tuple[tuple[Item, ...], list[Diagnostic]]:
    """Return the items that ``for_each`` declares, and what is wrong with it (paths from ``for_each`` on)."""
    if not isinstance(raw, Mapping) or not raw:
        return (), [Diagnostic((), f"expected a map of one name to a list of items, found {described(raw)}")]
    diagnostics: list[Diagnostic] = []
    raw = {name: listed_range(name, listed, diagnostics) for name, listed in raw.items()}
    if not diagnostics:
        diagnostics += [diagnostic for name, listed in raw.items() for diagnostic in _list_diagnostics(name, listed)]
    lengths = {name: len(listed) for name, listed in raw.items() if isinstance(listed, list)}
    if not diagnostics and len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        diagnostics = [Diagnostic((), f"expected lists of equal length, found: {counts}")]
    if diagnostics:
        return (), diagnostics
    rows = zip(*raw.values(), strict=True)
    items = tuple(Item.single(scalar_text(row[0]), dict(zip(raw, row, strict=True))) for row in rows)
    return items, _twice(next(iter(raw)), items)


def _list_diagnostics(name: str, listed: Any) -> Iterable[Diagnostic]:
    """Yield what is wrong with a name of ``for_each``, or with the items that it stands for."""
    if not _NAME.fullmatch(name):
        yield Diagnostic(
            (name,), f"'{shortened(name)}' cannot be an item's name, expected letters, digits and '_'", True
        )
    if not isinstance(listed, list):
        yield Diagnostic((name,), f"expected a list of items, found {described(listed)}")
    elif not listed:
        yield Diagnostic((name,), "expected at least one item, found an empty list")
    elif len(listed) > MAX_ITEMS:
        yield Diagnostic((name,), f"expected at most {MAX_ITEMS:,} items, found {len(listed):,}")
    else:
        for index, entry in enumerate(listed):
            if isinstance(entry, Mapping | list) or entry is None or not _KEY.fullmatch(scalar_text(entry)):
                shown = described(entry)
                yield Diagnostic((name, index), f"expected a text or a number without brackets as item, found {shown}")


def _twice(name: str, items: Iterable[Item]) -> list[Diagnostic]:
    keys: set[str] = set()
    diagnostics = []
    for index, item in enumerate(items):
        if item.key in keys:
            diagnostics.append(Diagnostic((name, index), f"found the item '{item.key}' twice, expected each once"))
        keys.add(item.key)
    return diagnostics


def fill_items(value: Any, names: Mapping[str, Any]) -> Any:
    """Return ``value`` with ``{name}`` replaced for the given names only; of ``{name}`` alone, the value itself."""
    if isinstance(value, Mapping):
        return {key: fill_items(inside, names) for key, inside in value.items()}
    if isinstance(value, list):
        return [fill_items(inside, names) for inside in value]
    if not isinstance(value, str) or "{" not in value or not names:
        return value
    if value[1:-1] in names and value == f"{{{value[1:-1]}}}":
        return names[value[1:-1]]
    return _PLACE.sub(lambda match: scalar_text(names[match[1]]) if match[1] in names else match[0], value)


def by_item(written: Mapping[str, Any], keys: Iterable[str], path: FieldPath) -> tuple[list[Any], list[Diagnostic]]:
    """Return the values of a map by item in the order of ``keys``: it must name every item and no other."""
    keys = list(keys)
    missing = [key for key in keys if key not in written]
    if missing:
        listed = ", ".join(shortened(key, 30) for key in missing[:5]) + (", ..." if len(missing) > 5 else "")
        return [], [
            Diagnostic(path, f"the map by item lacks: {listed}; name every item"),
            *_strangers(written, keys, path),
        ]
    return [written[key] for key in keys], _strangers(written, keys, path)


def _strangers(written: Mapping[str, Any], keys: list[str], path: FieldPath) -> list[Diagnostic]:
    known = set(keys)
    unknown = [key for key in written if key not in known]
    return [
        Diagnostic((*path, key), f"unknown item '{shortened(key)}'{did_you_mean(key, keys)}", at_key=True)
        for key in unknown[:MAX_DIAGNOSTICS]
    ]
