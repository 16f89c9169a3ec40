"""Binds unbound nodes: finds circles, spreads collections into steps, checks types and parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import networkx

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.types import FILED, EdgeType
from lines_pipeline.graph.graph import Step
from lines_pipeline.recipe.binding.items import Item, Items, fill_items
from lines_pipeline.recipe.binding.nodes import Reference, UnboundNode, port_path
from lines_pipeline.recipe.binding.parameters import InputBinding, step_params
from lines_pipeline.recipe.binding.rows import member_rows
from lines_pipeline.recipe.binding.validation import listed

if TYPE_CHECKING:
    from lines_pipeline.ops.base import OpParams, Port

MAX_STEPS = 20_000
MAX_EDGES = 500_000
"""The most inputs that all steps together may have."""

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


def circles(unbound_nodes: Mapping[str, UnboundNode]) -> list[list[str]]:
    """Return the nodes that depend on themselves, each circle as names from the first in the alphabet back to it."""
    graph = _dependencies(unbound_nodes)
    ways = []
    for group in networkx.strongly_connected_components(graph):
        start = min(group)
        inside = graph.subgraph(group)
        if inside.has_edge(start, start):
            ways.append([start, start])
        elif len(group) > 1:
            ways.append(_way_round(inside, start))
    return sorted(ways)


def _way_round(graph: networkx.DiGraph[str], start: str) -> list[str]:
    """Return the shortest way from a node back to it, the first in the alphabet of several."""
    steps_left = dict(networkx.single_target_shortest_path_length(graph, start))
    way = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(min(graph.successors(way[-1]), key=lambda node: (steps_left[node], node)))
    return way


def node_order(unbound_nodes: Mapping[str, UnboundNode]) -> list[str]:
    """Return the names in topological order, ties by name; what is in a circle or behind one is left out."""
    graph = _dependencies(unbound_nodes)
    for group in list(networkx.strongly_connected_components(graph)):
        if len(group) > 1 or graph.has_edge(*(list(group) * 2)):
            graph.remove_nodes_from(group)
    return list(networkx.lexicographical_topological_sort(graph))


def _dependencies(unbound_nodes: Mapping[str, UnboundNode]) -> networkx.DiGraph[str]:
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(sorted(unbound_nodes))
    graph.add_edges_from(
        (source, name)
        for name in sorted(unbound_nodes)
        for source in unbound_nodes[name].named()
        if source in unbound_nodes
    )
    return graph


class Binder:
    """Binds one unbound node after another, in topological order."""

    def __init__(self, names: Iterable[str], gives: Mapping[str, EdgeType | None], seed: int = 0) -> None:
        self.names, self._seed = sorted(names), seed
        self.spread = {name: BoundNode(kind, None) for name, kind in gives.items()}
        self.steps: dict[str, Step] = {}
        self.edges = 0

    def add(self, unbound: UnboundNode, written: Mapping[str, Any]) -> list[Diagnostic]:
        """Bind a node, keep its steps, and return diagnostics; ``written`` is the node with secrets by name."""
        steps, spread, diagnostics = self.dry_bind(unbound, written)
        self.spread[unbound.name] = spread
        self.steps |= {step.id: step for step in steps}
        self.edges += sum(len(ids) for step in steps for ids in step.inputs.values())
        return diagnostics

    def poison(self, name: str) -> None:
        """Make a node with mistakes of its own unknown to its dependants, but for its type."""
        self.spread[name] = BoundNode(self.spread[name].gives, None)

    def dry_bind(
        self, unbound: UnboundNode, written: Mapping[str, Any]
    ) -> tuple[list[Step], BoundNode, list[Diagnostic]]:
        """Return the steps, the bound node and the diagnostics that ``add`` would give; keep nothing."""
        diagnostics = [diagnostic for port in unbound.connected for diagnostic in self._type_diagnostics(unbound, port)]
        gives = unbound.gives or self._input_type(unbound)
        bindings, of_inputs = self._bindings(unbound)
        diagnostics += of_inputs
        if bindings is not None:
            rows, of_rows = member_rows(unbound, bindings)
            diagnostics += of_rows
        if diagnostics or bindings is None or gives is None:
            loose = step_params(unbound, unbound.items[0] if unbound.items else None, {}, written, Items(unbound.items))
            return (
                [],
                BoundNode(gives, None),
                diagnostics + [diagnostic for diagnostic in loose.diagnostics if diagnostic.path],
            )
        return self._steps(unbound, bindings, rows, gives, written)

    def _steps(
        self,
        unbound: UnboundNode,
        bindings: Mapping[str, InputBinding],
        rows: list[Item],
        gives: EdgeType,
        written: Mapping[str, Any],
    ) -> tuple[list[Step], BoundNode, list[Diagnostic]]:
        collection = bool(unbound.items) or any(binding.mapped for binding in bindings.values())
        edges = sum(
            len(binding.at(row)) if binding.rows else len(binding.shared)
            for binding in bindings.values()
            for row in rows
        )
        if len(self.steps) + len(rows) > MAX_STEPS or self.edges + edges > MAX_EDGES:
            message = (
                f"the recipe has more than {MAX_STEPS:,} steps, or {MAX_EDGES:,} inputs of steps; write a smaller one"
            )
            return [], BoundNode(gives, None), [Diagnostic((), message, at_key=True)]
        steps: list[Step] = []
        diagnostics: dict[Any, Diagnostic] = {}
        items = Items(rows)
        for row in rows:
            read = step_params(unbound, row if collection else None, bindings, written, items, self._seed)
            for diagnostic in read.diagnostics:
                diagnostics.setdefault((diagnostic.path, diagnostic.at_key), diagnostic)
            if read.params is not None:
                step = _step(unbound, row.key if collection else None, row, bindings, read.params, gives)
                steps.append(replace(step, varying=read.varying))
        if diagnostics:
            return [], BoundNode(gives, None), list(diagnostics.values())
        members = tuple(Member(step.id, step.item, row.names) for step, row in zip(steps, rows, strict=True))
        loads = [load for step, row in zip(steps, rows, strict=True) for load in _loads(unbound, step, row)]
        return [*loads, *steps], BoundNode(gives, members, collection), []

    def _type_diagnostics(self, unbound: UnboundNode, port_name: str) -> list[Diagnostic]:
        port = unbound.op.inputs[port_name]
        accepted = (port.type,) if port.type else FILED
        diagnostics = []
        for reference in self._all_references(unbound, port_name):
            gives = self.spread[reference.node].gives if reference.node in self.spread else None
            if gives is not None and gives not in accepted:
                takes = listed(accepted)
                advice = _ADVICE.get((accepted[0], gives), "") if port.type else ""
                message = f"'{port_name}' takes {takes}, but '{reference.node}' gives {gives}{advice}"
                diagnostics.append(Diagnostic(reference.path, message))
        return diagnostics

    @staticmethod
    def _all_references(unbound: UnboundNode, port: str) -> list[Reference]:
        rows = [item.names for item in unbound.items] or [{}]
        return list(dict.fromkeys(reference for names in rows for reference in unbound.references(port, names)))

    def _input_type(self, unbound: UnboundNode) -> EdgeType | None:
        """Return the type of the followed input, or else the first, for an op that gives what it takes."""
        for port in sorted(unbound.connected, key=lambda name: not unbound.op.inputs[name].followed):
            for reference in self._all_references(unbound, port):
                return self.spread[reference.node].gives if reference.node in self.spread else None
        return None

    def _bindings(self, unbound: UnboundNode) -> tuple[dict[str, InputBinding] | None, list[Diagnostic]]:
        bindings: dict[str, InputBinding] = {}
        diagnostics: dict[Diagnostic, None] = {}
        unknown = False
        for port_name in (name for name in unbound.op.inputs if name in unbound.connected):
            binding = self._binding(unbound, port_name, diagnostics)
            unknown = unknown or binding is None
            if binding is not None:
                bindings[port_name] = binding
        return (None if unknown else bindings), list(diagnostics)

    def _binding(
        self, unbound: UnboundNode, port_name: str, diagnostics: dict[Diagnostic, None]
    ) -> InputBinding | None:
        port = unbound.op.inputs[port_name]
        if (
            not unbound.items
            or fill_items(unbound.inputs[port_name], unbound.items[0].names) == unbound.inputs[port_name]
        ):
            members = self._members(unbound.references(port_name, {}), diagnostics)
            return None if members is None else _binding_of(port, *members, port_name, diagnostics)
        rows: dict[str, tuple[Member, ...]] = {}
        for item in unbound.items:
            picked = self._members(unbound.references(port_name, item.names), diagnostics)
            if picked is None:
                return None
            rows[item.key], collection = picked
            if collection and not port.many:
                diagnostics[
                    Diagnostic(port_path(port_name), f"'{port_name}' takes one value an item, found a collection")
                ] = None
        return InputBinding.picked(
            port.many, {key: tuple((member.step, _label(member)) for member in row) for key, row in rows.items()}
        )

    def _members(
        self, references: Iterable[Reference], diagnostics: dict[Diagnostic, None]
    ) -> tuple[tuple[Member, ...], bool] | None:
        """Return the members that references name, and whether they are a collection or a list; None where unknown."""
        members: list[Member] = []
        references = tuple(references)
        collection = len(references) > 1 or len(references[0].path) > 1
        for reference in references:
            spread = self._looked_up(reference, diagnostics)
            if spread is None or spread.members is None:
                return None
            named = self._picked(reference, spread, diagnostics) if reference.item is not None else spread.members
            if named is None:
                return None
            members += named
            collection = collection or (spread.collection and reference.item is None)
        return tuple(members), collection

    def _looked_up(self, reference: Reference, diagnostics: dict[Diagnostic, None]) -> BoundNode | None:
        if reference.node not in self.names:
            near = did_you_mean(reference.node, self.names)
            diagnostics[Diagnostic(reference.path, f"unknown node '{shortened(reference.node)}'{near}")] = None
        return self.spread.get(reference.node)

    @staticmethod
    def _picked(
        reference: Reference, spread: BoundNode, diagnostics: dict[Diagnostic, None]
    ) -> tuple[Member, ...] | None:
        member = spread.by_item.get(reference.item)
        if member is not None:
            return (member,)
        known = [sibling.item for sibling in spread.members or () if sibling.item is not None]
        problem = f"has no item '{reference.item}'{did_you_mean(str(reference.item), known)}" if known else ""
        message = f"'{reference.node}' {problem or 'is not a collection: name it without [...]'}"
        diagnostics[Diagnostic(reference.path, message)] = None
        return None


def _step(
    unbound: UnboundNode,
    item: str | None,
    row: Item,
    bindings: Mapping[str, InputBinding],
    params: OpParams,
    gives: EdgeType,
) -> Step:
    return Step(
        id=unbound.name if item is None else f"{unbound.name}[{item}]",
        node=unbound.name,
        item=item,
        op=unbound.op,
        params=params,
        inputs={port: binding.at(row) for port, binding in bindings.items()}
        | {port: (_load_id(unbound, item, port),) for port in unbound.inputs if port not in unbound.connected},
        include=tuple(str(fill_items(glob, row.names)) for glob in unbound.include),
        exclude=tuple(str(fill_items(glob, row.names)) for glob in unbound.exclude),
        gives=gives,
        names=row.names,
    )


def _loads(unbound: UnboundNode, step: Step, row: Item) -> list[Step]:
    """Return steps that load the files which a step's ports name."""
    from lines_pipeline.ops.reading import reader_of

    loads = []
    for port in (port for port in unbound.inputs if port not in unbound.connected):
        path = str(fill_items(unbound.inputs[port], row.names))
        read = reader_of(path)
        load = Step(
            id=_load_id(unbound, step.item, port),
            node=unbound.name,
            item=step.item,
            op=read.op,
            params=read.params,
            inputs={},
            include=(),
            exclude=(),
            gives=EdgeType.WEIGHTS,
            port=port,
        )
        loads.append(load)
    return loads


def _load_id(unbound: UnboundNode, item: str | None, port: str) -> str:
    """Name the step that loads a port's file, as no step of a node can be named."""
    return f"{unbound.name}.{port}" if item is None else f"{unbound.name}.{port}[{item}]"


def _label(member: Member) -> str:
    return member.item if member.item is not None else member.step


def _binding_of(
    port: Port, members: tuple[Member, ...], collection: bool, name: str, diagnostics: dict[Diagnostic, None]
) -> InputBinding:
    rows = tuple((member.step, _label(member)) for member in members)
    if port.many:
        if len(rows) < port.min_count:
            diagnostics[Diagnostic(port_path(name), f"'{name}' takes at least {port.min_count}, found {len(rows)}")] = (
                None
            )
        return InputBinding.all_of(rows)
    if not collection and not port.each:
        return InputBinding.one(rows[0])
    labels = [label for _, label in rows]
    twice = sorted(label for label, count in Counter(labels).items() if count > 1)
    if twice:
        diagnostics[Diagnostic(port_path(name), f"found '{twice[0]}' twice, expected each once")] = None
    names = {_label(member): member.names for member in members}
    return InputBinding.mapping(rows, names, with_all=port.with_all)
