"""Reads the parameters of one step: fills in items, resolves maps by item, and checks them against the op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.scalars import scalar_text
from lines_pipeline.recipe.binding.input_binding import InputBinding
from lines_pipeline.recipe.binding.items import Item, Items, by_item, fill_items
from lines_pipeline.recipe.binding.nodes import UnboundNode
from lines_pipeline.recipe.binding.validation import described
from lines_pipeline.recipe.binding.varying import is_varying, read_params

if TYPE_CHECKING:
    from lines_pipeline.ops.base import OpParams
    from lines_pipeline.ops.roles import StepContext
    from lines_pipeline.ops.varying import Varying


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
    items: Items,
    *,
    written: Mapping[str, Any],
    seed: int = 0,
) -> ReadParams:
    """Return the parameters of the step for ``row`` (None: the node is no collection) among the node's ``items``.

    Without ``bindings`` (the inputs have mistakes) only what does not depend on them is checked. ``written`` is the
    node with secrets by name.
    """
    return _ParamReader(unbound, row, bindings, items).read(written, seed)


class _ParamReader:
    """Reads the parameters of one step of a node: each item's share of them, checked against the op."""

    def __init__(
        self, unbound: UnboundNode, row: Item | None, bindings: Mapping[str, InputBinding], items: Items
    ) -> None:
        """Read ``unbound`` for the member of its collection whose item is ``row`` (None: it is no collection)."""
        self._unbound, self._row, self._bindings, self._items = unbound, row, bindings, items
        self._diagnostics: list[Diagnostic] = []

    def read(self, written: Mapping[str, Any], seed: int) -> ReadParams:
        """Return the parameters, or what is wrong with them."""
        raw, op = {**_defaults(self._unbound), **self._unbound.params}, self._unbound.op
        values = {
            name: self._per_input(name, value) if name in op.per_item else self._of_item(name, value)
            for name, value in raw.items()
        }
        params, varying, of_params = self._validated(values, written)
        known = {diagnostic.path[:1] for diagnostic in self._diagnostics}
        self._diagnostics += [diagnostic for diagnostic in of_params if diagnostic.path[:1] not in known]
        if params is not None and not self._diagnostics and self._bindings.keys() >= set(self._unbound.connected):
            self._check_combination(params, varying)
            params = op.completed(params, self._context(seed))
        return ReadParams(params, tuple(self._diagnostics), varying)

    def _check_combination(self, params: OpParams, varying: Iterable[Varying]) -> None:
        """Note what is wrong with parameters and inputs together, each of which is right by itself."""
        op, bindings = self._unbound.op, self._bindings
        counts = {port: len(bindings[port].at(self._row)) if port in bindings else 0 for port in op.inputs}
        message = op.check(params, counts)
        self._diagnostics += [Diagnostic((), message, at_key=True)] if message else []
        if op.driver_of(params) is not None:
            for number in varying:
                reason = f"'{number.path[0]}' is one number: a driver carries this node out"
                self._diagnostics.append(Diagnostic(number.path[:1], reason, at_key=True))

    def _context(self, seed: int) -> StepContext:
        from lines_pipeline.ops.roles import StepContext

        row, bindings = self._row, self._bindings
        labels = {port: binding.labels(row) for port, binding in bindings.items()}
        mapped = len(self._items.mapped) if any(binding.mapped for binding in bindings.values()) else 0
        return StepContext(labels, seed, mapped, self._unbound.name, row.key if row else None)

    def _validated(
        self, values: Mapping[str, Any], written: Mapping[str, Any]
    ) -> tuple[OpParams | None, tuple[Varying, ...], list[Diagnostic]]:
        """Return the op's parameters with items filled in; a parameter that refuses a number is given it as text."""
        op, names = self._unbound.op, self._row.names if self._row else {}
        shown = {name: written.get(name) for name in self._unbound.params}
        typed = {name: fill_items(value, names) for name, value in values.items()}
        params, varying, diagnostics = read_params(op, typed, shown)
        refused = {diagnostic.path[0] for diagnostic in diagnostics if diagnostic.path}
        if not refused or all(isinstance(value, str) for value in names.values()):
            return params, varying, diagnostics
        texts = {name: scalar_text(value) for name, value in names.items()}
        typed |= {name: fill_items(values[name], texts) for name in values if name in refused}
        params, varying, _ = read_params(op, typed, shown)
        return params, varying, [] if params is not None else diagnostics

    def _of_item(self, name: str, value: Any) -> Any:
        """Return ``value``, or this item's share of it where it is a map by item."""
        row = self._row
        chosen = self._items.chosen(name, value) if row is not None and isinstance(value, Mapping) else None
        if row is None or chosen is None:
            return value
        side, by_key, of_map = chosen
        self._diagnostics += of_map
        return by_key.get(getattr(row, side), value)

    def _per_input(self, name: str, value: Any) -> Any:
        """Return a list of numbers, one an entry of the port, from a number, a list or a map by item."""
        binding, row = self._bindings.get(self._unbound.op.per_item[name]), self._row
        if is_varying(value) and (binding is None or binding.mapped):
            return [value]
        if binding is None:
            return value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else [value]
        if binding.mapped and row is not None:
            return [self._of_mapped(name, value, row)]
        labels = binding.labels(row)
        if row is not None and isinstance(value, Mapping) and value.keys() != set(labels):
            chosen = self._items.chosen(name, value)
            value = chosen[1][getattr(row, chosen[0])] if chosen is not None and not chosen[2] else value
        if not isinstance(value, Mapping | list) or is_varying(value):
            return [value] * len(labels)
        numbers = self._of_map(name, value, labels) if isinstance(value, Mapping) else value
        if isinstance(value, list) and len(value) != len(labels):
            self._note_count(name, len(labels), len(value))
        return numbers if len(numbers) == len(labels) else [0.0] * len(labels)

    def _of_map(self, name: str, value: Mapping[str, Any], labels: list[str]) -> list[Any]:
        numbers, of_items = by_item(value, labels, (name,))
        self._diagnostics += of_items or _not_numbers(name, value)
        return numbers

    def _of_mapped(self, name: str, value: Any, row: Item) -> Any:
        """Return the number of the one entry that a step has of a port that the node maps over."""
        mapped = self._items.mapped
        if isinstance(value, list):
            if len(value) != len(mapped):
                self._note_count(name, len(mapped), len(value))
                return 0.0
            return value[mapped[row.mapped]]
        if not isinstance(value, Mapping):
            return value
        chosen = self._items.chosen(name, value)
        if chosen is None:
            self._diagnostics += by_item(value, mapped, (name,))[1]
            return 0.0
        side, by_key, of_map = chosen
        self._diagnostics += of_map or _not_numbers(name, {getattr(row, side): by_key[getattr(row, side)]})
        return by_key.get(getattr(row, side), 0.0)

    def _note_count(self, name: str, expected: int, count: int) -> None:
        message = f"expected {expected} numbers, one an input, found {count}"
        self._diagnostics.append(Diagnostic((name,), message))


def _defaults(unbound: UnboundNode) -> dict[str, Any]:
    """Return the defaults of one number that each stand for all inputs of a port."""
    fields = unbound.op.Params.model_fields
    defaults = {
        name: fields[name].default for name in unbound.op.per_item if unbound.op.per_item[name] in unbound.inputs
    }
    return {name: value[0] for name, value in defaults.items() if isinstance(value, tuple) and len(value) == 1}


def _not_numbers(name: str, by_key: Mapping[str, Any]) -> list[Diagnostic]:
    """Return the values of a map by item that are neither numbers nor texts that an item may fill."""
    return [
        Diagnostic((name, key), f"'{name}': expected a number, found {described(value)}")
        for key, value in by_key.items()
        if isinstance(value, bool) or not (isinstance(value, int | float) or is_varying(value) or "{" in str(value))
    ]
