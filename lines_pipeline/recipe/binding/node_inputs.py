"""Binds the inputs of one node to the members of the nodes that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.types import FILED, EdgeType
from lines_pipeline.recipe.binding.input_binding import InputBinding
from lines_pipeline.recipe.binding.items import fill_items
from lines_pipeline.recipe.binding.nodes import Reference, UnboundNode, port_path
from lines_pipeline.recipe.binding.validation import listed

if TYPE_CHECKING:
    from lines_pipeline.ops.base import Port

_ADVICE = {
    (EdgeType.WEIGHTS, EdgeType.DELTA): "; make weights of it with 'apply'",
    (EdgeType.DELTA, EdgeType.WEIGHTS): "; make a delta of it with 'task-vector'",
    (EdgeType.DELTA, EdgeType.MASK): "; make a delta of it with 'mask'",
}


@dataclass(frozen=True)
class Member:
    """Holds one step of a bound node, as its dependants see it."""

    step: str
    item: str | None
    names: Mapping[str, Any]


@dataclass(frozen=True)
class BoundNode:
    """Holds a node as its dependants see it; ``members`` is None where mistakes keep it from being known."""

    gives: EdgeType | None
    members: tuple[Member, ...] | None
    collection: bool = False

    @cached_property
    def by_item(self) -> Mapping[str | None, Member]:
        """Return the members by item."""
        return {member.item: member for member in self.members or ()}


class NodeInputs:
    """Binds the inputs of one node; ``diagnostics`` say what is wrong with them, each once."""

    def __init__(self, unbound: UnboundNode, names: Collection[str], bound: Mapping[str, BoundNode]) -> None:
        self._unbound, self._names, self._bound = unbound, names, bound
        self.diagnostics: dict[Diagnostic, None] = {}

    def check_types(self) -> None:
        """Compare the types that nodes give with those that the ports take."""
        for name in self._unbound.connected:
            port = self._unbound.op.inputs[name]
            accepted = (port.type,) if port.type else FILED
            for reference in self._references(name):
                gives = self._type_of(reference)
                if gives is not None and gives not in accepted:
                    advice = _ADVICE.get((accepted[0], gives), "") if port.type else ""
                    message = f"'{name}' takes {listed(accepted)}, but '{reference.node}' gives {gives}{advice}"
                    self._note(reference.path, message)

    def type(self) -> EdgeType | None:
        """Return the type of the followed input, or else the first, for an op that gives what it takes."""
        ports = self._unbound.op.inputs
        for port in sorted(self._unbound.connected, key=lambda name: not ports[name].followed):
            for reference in self._references(port):
                return self._type_of(reference)
        return None

    def bindings(self) -> dict[str, InputBinding] | None:
        """Return the binding of each port that names nodes; None where one of them is not known."""
        connected = [name for name in self._unbound.op.inputs if name in self._unbound.connected]
        bindings = {name: self._binding(name) for name in connected}
        known = {name: binding for name, binding in bindings.items() if binding is not None}
        return known if len(known) == len(bindings) else None

    def _references(self, port: str) -> list[Reference]:
        rows = [item.names for item in self._unbound.items] or [{}]
        return list(dict.fromkeys(reference for names in rows for reference in self._unbound.references(port, names)))

    def _type_of(self, reference: Reference) -> EdgeType | None:
        return self._bound[reference.node].gives if reference.node in self._bound else None

    def _binding(self, name: str) -> InputBinding | None:
        port, items, written = self._unbound.op.inputs[name], self._unbound.items, self._unbound.inputs[name]
        if not items or fill_items(written, items[0].names) == written:
            members = self._members(self._unbound.references(name, {}))
            return None if members is None else self._shared(port, *members, name)
        rows: dict[str, tuple[tuple[str, str], ...]] = {}
        for item in items:
            picked = self._members(self._unbound.references(name, item.names))
            if picked is None:
                return None
            members_picked, collection = picked
            rows[item.key] = tuple((member.step, _label(member)) for member in members_picked)
            if collection and not port.many:
                self._note(port_path(name), f"'{name}' takes one value an item, found a collection")
        return InputBinding.picked(port.many, rows)

    def _shared(self, port: Port, members: tuple[Member, ...], collection: bool, name: str) -> InputBinding:
        """Bind a port to members that are the same for all items of the node."""
        rows = tuple((member.step, _label(member)) for member in members)
        if port.many:
            if len(rows) < port.min_count:
                self._note(port_path(name), f"'{name}' takes at least {port.min_count}, found {len(rows)}")
            return InputBinding.all_of(rows)
        if not collection and not port.each:
            return InputBinding.one(rows[0])
        labels = [label for _, label in rows]
        twice = sorted(label for label, count in Counter(labels).items() if count > 1)
        if twice:
            self._note(port_path(name), f"found '{twice[0]}' twice, expected each once")
        names = {_label(member): member.names for member in members}
        return InputBinding.mapping(rows, names, with_all=port.with_all)

    def _members(self, references: Iterable[Reference]) -> tuple[tuple[Member, ...], bool] | None:
        """Return the members that references name, and whether they are a collection or a list; None where unknown."""
        members: list[Member] = []
        references = tuple(references)
        collection = len(references) > 1 or len(references[0].path) > 1
        for reference in references:
            bound = self._node(reference)
            if bound is None or bound.members is None:
                return None
            named = self._item(reference, bound) if reference.item is not None else bound.members
            if named is None:
                return None
            members += named
            collection = collection or (bound.collection and reference.item is None)
        return tuple(members), collection

    def _node(self, reference: Reference) -> BoundNode | None:
        if reference.node not in self._names:
            near = did_you_mean(reference.node, self._names)
            self._note(reference.path, f"unknown node '{shortened(reference.node)}'{near}")
        return self._bound.get(reference.node)

    def _item(self, reference: Reference, bound: BoundNode) -> tuple[Member, ...] | None:
        member = bound.by_item.get(reference.item)
        if member is not None:
            return (member,)
        known = [sibling.item for sibling in bound.members or () if sibling.item is not None]
        problem = f"has no item '{reference.item}'{did_you_mean(str(reference.item), known)}" if known else ""
        self._note(reference.path, f"'{reference.node}' {problem or 'is not a collection: name it without [...]'}")
        return None

    def _note(self, path: FieldPath, message: str) -> None:
        self.diagnostics[Diagnostic(path, message)] = None


def _label(member: Member) -> str:
    return member.item if member.item is not None else member.step
