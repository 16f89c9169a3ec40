"""Finds the members of a node: its own items, those of the collections that it maps over, or all pairs of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.printable import shortened
from lines_pipeline.recipe.binding.input_binding import InputBinding
from lines_pipeline.recipe.binding.items import MAX_ITEMS, Item
from lines_pipeline.recipe.binding.nodes import UnboundNode


def member_rows(unbound: UnboundNode, bindings: Mapping[str, InputBinding]) -> tuple[list[Item], list[Diagnostic]]:
    """Return the items of the node: its own, those of what it maps over (the same everywhere), or all pairs of both."""
    mapped, diagnostics = _mapped_items(bindings)
    if not mapped or not unbound.items:
        return mapped or list(unbound.items) or [Item.single("", {})], diagnostics
    if not _is_same_side(unbound.items, mapped):
        return _product(mapped, unbound.items, diagnostics)
    own = {item.key: item.names for item in unbound.items}
    diagnostics += [
        Diagnostic((port,), _difference("for_each", own, port, binding.rows))
        for port, binding in bindings.items()
        if binding.mapped and binding.rows.keys() != own.keys() and not diagnostics
    ]
    names = {item.key: item.names for item in mapped}
    return [Item.single(key, {**names.get(key, {}), **own[key]}) for key in own], diagnostics


def _mapped_items(bindings: Mapping[str, InputBinding]) -> tuple[list[Item], list[Diagnostic]]:
    """Return the items that the node maps over, in the order of the first collection."""
    sides = {port: binding for port, binding in bindings.items() if binding.mapped}
    if not sides:
        return [], []
    first, keys = next((port, binding.rows) for port, binding in sides.items())
    diagnostics = [
        Diagnostic((port,), _difference(first, keys, port, binding.rows))
        for port, binding in sides.items()
        if binding.rows.keys() != keys.keys()
    ]
    items = []
    for key in keys:
        names: dict[str, Any] = {}
        for binding in reversed(list(bindings.values())):
            names |= binding.names.get(key, {})
        items.append(Item.single(key, names))
    return items, diagnostics


def _is_same_side(own: Iterable[Item], mapped: Iterable[Item]) -> bool:
    """Return whether a node's own items are those it maps over: by name, or by keys where those have none."""
    own_names = {name for item in own for name in item.names}
    mapped_names = {name for item in mapped for name in item.names}
    return bool(own_names & mapped_names) or (
        not mapped_names and {item.key for item in own} == {item.key for item in mapped}
    )


def _product(
    mapped: list[Item], own: tuple[Item, ...], diagnostics: list[Diagnostic]
) -> tuple[list[Item], list[Diagnostic]]:
    """Return a row for each member of the mapped collection and each item of the node's own ``for_each``."""
    if len(mapped) * len(own) > MAX_ITEMS:
        message = f"{len(mapped):,} members times {len(own):,} items are too many, expected at most {MAX_ITEMS:,}"
        return [], [*diagnostics, Diagnostic(("for_each",), message)]
    rows = [Item.combined(of_collection, of_node) for of_collection in mapped for of_node in own]
    twice = [key for key, count in Counter(row.key for row in rows).items() if count > 1]
    if twice:
        diagnostics = [*diagnostics, Diagnostic(("for_each",), f"found the combination '{shortened(twice[0])}' twice")]
    return rows, diagnostics


def _difference(first: str, keys: Iterable[str], second: str, its_keys: Iterable[str]) -> str:
    lacks = sorted(set(keys) - set(its_keys))
    extra = sorted(set(its_keys) - set(keys))
    parts = [f"lacks {', '.join(lacks[:5])}"] if lacks else []
    parts += [f"has {', '.join(extra[:5])} besides"] if extra else []
    return f"collections in one node need equal items: compared with '{first}', '{second}' {' and '.join(parts)}"
