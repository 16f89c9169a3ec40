"""Reads the parameters of one step: fills in items, resolves maps by item, and checks them against the op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.scalars import scalar_text
from lines_pipeline.recipe.binding.items import Item, Items, by_item, fill_items
from lines_pipeline.recipe.binding.nodes import UnboundNode
from lines_pipeline.recipe.binding.validation import described
from lines_pipeline.recipe.binding.varying import is_varying, read_params

if TYPE_CHECKING:
    from lines_pipeline.ops.base import OpParams
    from lines_pipeline.ops.roles import StepContext
    from lines_pipeline.ops.varying import Varying


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


@dataclass(frozen=True)
class ReadParams:
    """Holds the parameters of a step, or diagnostics about them (paths from the node on)."""

    params: OpParams | None
    diagnostics: tuple[Diagnostic, ...]
    varying: tuple[Varying, ...] = ()
    """The numbers that differ from tensor to tensor; ``params`` has one of each."""


def step_params(
    unbound: UnboundNode,
    row: Item | None,
    bindings: Mapping[str, InputBinding],
    written: Mapping[str, Any],
    items: Items,
    seed: int = 0,
) -> ReadParams:
    """Return the parameters of the step for ``row`` (None: the node is no collection) among the node's ``items``.

    Without ``bindings`` (the inputs have mistakes) only what does not depend on them is checked.
    """
    diagnostics: list[Diagnostic] = []
    raw = {**_defaults(unbound), **unbound.params}
    values = {}
    for name, value in raw.items():
        if name in unbound.op.per_item:
            values[name] = _spread(unbound, name, value, row, bindings, items, diagnostics)
        else:
            values[name] = _chosen(name, value, row, items, diagnostics)
    params, varying, of_params = _filled_and_validated(unbound, values, row.names if row else {}, written)
    diagnostics += [
        diagnostic
        for diagnostic in of_params
        if not any(earlier.path[:1] == diagnostic.path[:1] for earlier in diagnostics)
    ]
    if params is not None and not diagnostics and bindings.keys() >= set(unbound.connected):
        diagnostics += _of_combination(unbound, params, varying, row, bindings)
        params = unbound.op.completed(params, _context(unbound, row, bindings, items, seed))
    return ReadParams(params, tuple(diagnostics), varying)


def _of_combination(
    unbound: UnboundNode,
    params: OpParams,
    varying: Iterable[Varying],
    row: Item | None,
    bindings: Mapping[str, InputBinding],
) -> list[Diagnostic]:
    """Return what is wrong with parameters and inputs together, each of which is right by itself."""
    counts = {port: len(bindings[port].at(row)) if port in bindings else 0 for port in unbound.op.inputs}
    message = unbound.op.check(params, counts)
    diagnostics = [Diagnostic((), message, at_key=True)] if message else []
    if unbound.op.driver_of(params) is not None:
        for number in varying:
            reason = f"'{number.path[0]}' is one number: a driver carries this node out"
            diagnostics.append(Diagnostic(number.path[:1], reason, at_key=True))
    return diagnostics


def _context(
    unbound: UnboundNode, row: Item | None, bindings: Mapping[str, InputBinding], items: Items, seed: int
) -> StepContext:
    from lines_pipeline.ops.roles import StepContext

    labels = {port: binding.labels(row) for port, binding in bindings.items()}
    mapped = len(items.mapped) if any(binding.mapped for binding in bindings.values()) else 0
    return StepContext(labels, seed, mapped, unbound.name, row.key if row else None)


def _filled_and_validated(
    unbound: UnboundNode, values: Mapping[str, Any], names: Mapping[str, Any], written: Mapping[str, Any]
) -> tuple[OpParams | None, tuple[Varying, ...], list[Diagnostic]]:
    """Return the op's parameters with items filled in; a number among the items is text where the op wants text."""
    shown = {name: written.get(name) for name in unbound.params}
    typed = {name: fill_items(value, names) for name, value in values.items()}
    params, varying, diagnostics = read_params(unbound.op, typed, shown)
    refused = {diagnostic.path[0] for diagnostic in diagnostics if diagnostic.path}
    if not refused or all(isinstance(value, str) for value in names.values()):
        return params, varying, diagnostics
    texts = {name: scalar_text(value) for name, value in names.items()}
    typed |= {name: fill_items(values[name], texts) for name in values if name in refused}
    params, varying, _ = read_params(unbound.op, typed, shown)
    return params, varying, [] if params is not None else diagnostics


def _defaults(unbound: UnboundNode) -> dict[str, Any]:
    """Return the defaults of one number that have to be spread over the inputs."""
    fields = unbound.op.Params.model_fields
    defaults = {
        name: fields[name].default for name in unbound.op.per_item if unbound.op.per_item[name] in unbound.inputs
    }
    return {name: value[0] for name, value in defaults.items() if isinstance(value, tuple) and len(value) == 1}


def _chosen(name: str, value: Any, row: Item | None, items: Items, diagnostics: list[Diagnostic]) -> Any:
    """Return ``value``, or this item's share of it where it is a map by item."""
    chosen = items.chosen(name, value) if row is not None and isinstance(value, Mapping) else None
    if row is None or chosen is None:
        return value
    side, by_key, wrong = chosen
    diagnostics += wrong
    return by_key.get(getattr(row, side), value)


def _not_numbers(name: str, by_key: Mapping[str, Any]) -> list[Diagnostic]:
    """Return the values of a map by item that are neither numbers nor texts that an item may fill."""
    return [
        Diagnostic((name, key), f"'{name}': expected a number, found {described(value)}")
        for key, value in by_key.items()
        if isinstance(value, bool) or not (isinstance(value, int | float) or is_varying(value) or "{" in str(value))
    ]


def _spread(
    unbound: UnboundNode,
    name: str,
    value: Any,
    row: Item | None,
    bindings: Mapping[str, InputBinding],
    items: Items,
    diagnostics: list[Diagnostic],
) -> Any:
    """Return a tuple of numbers, one an entry of the port, from a number, a list or a map by item."""
    binding = bindings.get(unbound.op.per_item[name])
    if is_varying(value) and (binding is None or binding.mapped):
        return [value]
    if binding is None:
        return value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else [value]
    if binding.mapped and row is not None:
        return [_mapped(name, value, row, items, diagnostics)]
    labels = binding.labels(row)
    if row is not None and isinstance(value, Mapping) and value.keys() != set(labels):
        chosen = items.chosen(name, value)
        value = chosen[1][getattr(row, chosen[0])] if chosen is not None and not chosen[2] else value
    if not isinstance(value, Mapping | list) or is_varying(value):
        return [value] * len(labels)
    if isinstance(value, Mapping):
        listed, of_items = by_item(value, labels, (name,))
        diagnostics += of_items or _not_numbers(name, value)
    else:
        listed = value
        if len(value) != len(labels):
            diagnostics.append(Diagnostic((name,), f"expected {len(labels)} numbers, one an input, found {len(value)}"))
    return listed if len(listed) == len(labels) else [0.0] * len(labels)


def _mapped(name: str, value: Any, row: Item, items: Items, diagnostics: list[Diagnostic]) -> Any:
    """Return the index of the one entry that a step has of a port that the node maps over."""
    if isinstance(value, list):
        if len(value) != len(items.mapped):
            message = f"expected {len(items.mapped)} numbers, one an input, found {len(value)}"
            diagnostics.append(Diagnostic((name,), message))
            return 0.0
        return value[items.mapped[row.mapped]]
    if not isinstance(value, Mapping):
        return value
    chosen = items.chosen(name, value)
    if chosen is None:
        diagnostics += by_item(value, items.mapped, (name,))[1]
        return 0.0
    side, by_key, wrong = chosen
    diagnostics += wrong or _not_numbers(name, {getattr(row, side): by_key[getattr(row, side)]})
    return by_key.get(getattr(row, side), 0.0)
