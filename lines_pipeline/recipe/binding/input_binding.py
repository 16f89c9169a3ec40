"""Which steps a port of a node takes: for all steps of the node, or item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lines_pipeline.recipe.binding.items import Item


@dataclass(frozen=True)
class InputBinding:
    """Binds a port to steps: for all steps of the node, or by item; each entry is a step id and its label."""

    shared: tuple[tuple[str, str], ...] = ()
    rows: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    mapped: bool = False
    """Whether the node becomes a collection by this port."""
    names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    many: bool = False

    @classmethod
    def one(cls, entry: tuple[str, str]) -> InputBinding:
        """Bind every step to the same single value."""
        return cls(shared=(entry,))

    @classmethod
    def all_of(cls, entries: tuple[tuple[str, str], ...]) -> InputBinding:
        """Bind every step to the same list."""
        return cls(shared=entries, many=True)

    @classmethod
    def mapping(
        cls, entries: tuple[tuple[str, str], ...], names: Mapping[str, Mapping[str, Any]], *, with_all: bool = False
    ) -> InputBinding:
        """Bind each item to one value, followed by all where the port wants that: the node maps over them."""
        shared = entries if with_all else ()
        return cls(rows={label: ((step, label), *shared) for step, label in entries}, mapped=True, names=names)

    @classmethod
    def picked(cls, many: bool, rows: Mapping[str, tuple[tuple[str, str], ...]]) -> InputBinding:
        """Bind each of the node's own items to the list that it picks."""
        return cls(rows=rows, many=many)

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the items, in order."""
        return tuple(self.rows)

    def at(self, row: Item | None) -> tuple[str, ...]:
        """Return the step ids for one item."""
        return tuple(step for step, _ in self._entries(row))

    def labels(self, row: Item | None) -> list[str]:
        """Return the names that a map by item has for the entries: item or node, step id where those are not unique."""
        entries = self._entries(row)
        labels = [label for _, label in entries]
        return labels if len(set(labels)) == len(labels) else [step for step, _ in entries]

    def _entries(self, row: Item | None) -> tuple[tuple[str, str], ...]:
        if not self.rows:
            return self.shared
        assert row is not None
        return self.rows[row.mapped if self.mapped else row.own]
