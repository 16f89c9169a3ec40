"""Connects drafted nodes: finds circles, spreads collections into steps, checks types and parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import networkx

from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.types import EdgeType
from lines_pipeline.recipe.drafts import Draft, Reference
from lines_pipeline.recipe.graph import Step
from lines_pipeline.recipe.items import Item, Items, fill_items
from lines_pipeline.recipe.parameters import Feed, step_params
from lines_pipeline.recipe.rows import member_rows
from lines_pipeline.recipe.validation import Complaint, listed

if TYPE_CHECKING:
    from lines_pipeline.ops.base import OpParams, Port

MAX_STEPS = 20_000
MAX_EDGES = 500_000
"""Inputs of all steps together."""

_ADVICE = {
    (EdgeType.WEIGHTS, EdgeType.DELTA): "; make weights of it with 'apply'",
    (EdgeType.DELTA, EdgeType.WEIGHTS): "; make a delta of it with 'task-vector'",
    (EdgeType.DELTA, EdgeType.MASK): "; make a delta of it with 'mask'",
}


@dataclass(frozen=True)
class Member:
    """One step of a node that is already spread, as its dependants see it."""

    step: str
    item: str | None
    names: Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """A node as its dependants see it; ``members`` is None where mistakes keep it from being known."""

    gives: EdgeType | None
    members: tuple[Member, ...] | None
    collection: bool = False

    @cached_property
    def by_item(self) -> Mapping[str | None, Member]:
        """The members by item."""
        return {member.item: member for member in self.members or ()}


def circles(drafts: Mapping[str, Draft]) -> list[list[str]]:
    """Nodes that depend on themselves, each circle as names from the first in the alphabet back to it."""
    graph = _dependencies(drafts)
    found = []
    for group in networkx.strongly_connected_components(graph):
        start = min(group)
        inside = graph.subgraph(group)
        if inside.has_edge(start, start):
            found.append([start, start])
        elif len(group) > 1:
            found.append(_way_round(inside, start))
    return sorted(found)


def _way_round(graph: networkx.DiGraph[str], start: str) -> list[str]:
    """The shortest way from a node back to it, the first in the alphabet of several."""
    steps_left = dict(networkx.single_target_shortest_path_length(graph, start))
    way = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(min(graph.successors(way[-1]), key=lambda node: (steps_left[node], node)))
    return way


def node_order(drafts: Mapping[str, Draft]) -> list[str]:
    """Names in topological order, ties by name; what is in a circle or behind one is left out."""
    graph = _dependencies(drafts)
    for group in list(networkx.strongly_connected_components(graph)):
        if len(group) > 1 or graph.has_edge(*(list(group) * 2)):
            graph.remove_nodes_from(group)
    return list(networkx.lexicographical_topological_sort(graph))


def _dependencies(drafts: Mapping[str, Draft]) -> networkx.DiGraph[str]:
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(sorted(drafts))
    graph.add_edges_from(
        (source, name) for name in sorted(drafts) for source in drafts[name].named() if source in drafts
    )
    return graph


class Assembly:
    """Spreads one draft after another, in topological order; ``broken`` are the names of nodes with mistakes."""

    def __init__(self, names: Iterable[str], gives: Mapping[str, EdgeType | None]) -> None:
        self.names = sorted(names)
        self.spread = {name: Spread(kind, None) for name, kind in gives.items()}
        self.steps: dict[str, Step] = {}
        self.edges = 0

    def add(self, draft: Draft, written: Mapping[str, Any]) -> list[Complaint]:
        """Spreads a draft into steps and keeps them; ``written`` is the node with secrets by name."""
        steps, spread, complaints = self.tried(draft, written)
        self.spread[draft.name] = spread
        self.steps |= {step.id: step for step in steps}
        self.edges += sum(len(ids) for step in steps for ids in step.inputs.values())
        return complaints

    def forget(self, name: str) -> None:
        """Treats a node as unknown to its dependants, but for its type: it has mistakes of its own."""
        self.spread[name] = Spread(self.spread[name].gives, None)

    def tried(self, draft: Draft, written: Mapping[str, Any]) -> tuple[list[Step], Spread, list[Complaint]]:
        """What ``add`` would do."""
        complaints = [one for port in draft.inputs for one in self._type_complaints(draft, port)]
        gives = draft.gives or self._input_type(draft)
        feeds, found = self._feeds(draft)
        complaints += found
        if feeds is not None:
            rows, found = member_rows(draft, feeds)
            complaints += found
        if complaints or feeds is None or gives is None:
            loose = step_params(draft, draft.items[0] if draft.items else None, {}, written, Items(draft.items))
            return [], Spread(gives, None), complaints + [one for one in loose.complaints if one.path]
        return self._steps(draft, feeds, rows, gives, written)

    def _steps(
        self, draft: Draft, feeds: Mapping[str, Feed], rows: list[Item], gives: EdgeType, written: Mapping[str, Any]
    ) -> tuple[list[Step], Spread, list[Complaint]]:
        collection = bool(draft.items) or any(feed.mapped for feed in feeds.values())
        edges = sum(len(feed.at(row)) if feed.rows else len(feed.shared) for feed in feeds.values() for row in rows)
        if len(self.steps) + len(rows) > MAX_STEPS or self.edges + edges > MAX_EDGES:
            message = (
                f"the recipe has more than {MAX_STEPS:,} steps, or {MAX_EDGES:,} inputs of steps; write a smaller one"
            )
            return [], Spread(gives, None), [Complaint((), message, at_key=True)]
        steps: list[Step] = []
        complaints: dict[Any, Complaint] = {}
        items = Items(rows)
        for row in rows:
            read = step_params(draft, row if collection else None, feeds, written, items)
            for one in read.complaints:
                complaints.setdefault((one.path, one.at_key), one)
            if read.params is not None:
                steps.append(_step(draft, row.key if collection else None, row, feeds, read.params, gives))
        if complaints:
            return [], Spread(gives, None), list(complaints.values())
        members = tuple(Member(step.id, step.item, row.names) for step, row in zip(steps, rows, strict=True))
        return steps, Spread(gives, members, collection), []

    def _type_complaints(self, draft: Draft, port_name: str) -> list[Complaint]:
        port = draft.op.inputs[port_name]
        accepted = (port.type,) if port.type else (EdgeType.WEIGHTS, EdgeType.DELTA, EdgeType.MASK)
        complaints = []
        for reference in self._all_references(draft, port_name):
            gives = self.spread[reference.node].gives if reference.node in self.spread else None
            if gives is not None and gives not in accepted:
                takes = listed(accepted)
                advice = _ADVICE.get((accepted[0], gives), "") if port.type else ""
                message = f"'{port_name}' takes {takes}, but '{reference.node}' gives {gives}{advice}"
                complaints.append(Complaint(reference.path, message))
        return complaints

    @staticmethod
    def _all_references(draft: Draft, port: str) -> list[Reference]:
        rows = [item.names for item in draft.items] or [{}]
        return list(dict.fromkeys(one for names in rows for one in draft.references(port, names)))

    def _input_type(self, draft: Draft) -> EdgeType | None:
        """The type of the first input, for an op that gives what it takes."""
        for port in draft.inputs:
            for reference in self._all_references(draft, port):
                return self.spread[reference.node].gives if reference.node in self.spread else None
        return None

    def _feeds(self, draft: Draft) -> tuple[dict[str, Feed] | None, list[Complaint]]:
        feeds: dict[str, Feed] = {}
        complaints: dict[Complaint, None] = {}
        unknown = False
        for port_name in (name for name in draft.op.inputs if name in draft.inputs):
            feed = self._feed(draft, port_name, complaints)
            unknown = unknown or feed is None
            if feed is not None:
                feeds[port_name] = feed
        return (None if unknown else feeds), list(complaints)

    def _feed(self, draft: Draft, port_name: str, complaints: dict[Complaint, None]) -> Feed | None:
        port = draft.op.inputs[port_name]
        if not draft.items or fill_items(draft.inputs[port_name], draft.items[0].names) == draft.inputs[port_name]:
            members = self._members(draft.references(port_name, {}), complaints)
            return None if members is None else _feed_of(port, *members, port_name, complaints)
        rows: dict[str, tuple[Member, ...]] = {}
        for item in draft.items:
            found = self._members(draft.references(port_name, item.names), complaints)
            if found is None:
                return None
            rows[item.key] = found[0]
            if found[1] and not port.many:
                complaints[Complaint((port_name,), f"'{port_name}' takes one value an item, found a collection")] = None
        return Feed.picked(port.many, {key: tuple((one.step, _label(one)) for one in row) for key, row in rows.items()})

    def _members(
        self, references: Iterable[Reference], complaints: dict[Complaint, None]
    ) -> tuple[tuple[Member, ...], bool] | None:
        """The members that references name, and whether they are a collection or a list; None where unknown."""
        members: list[Member] = []
        references = tuple(references)
        collection = len(references) > 1 or len(references[0].path) > 1
        for reference in references:
            spread = self._looked_up(reference, complaints)
            if spread is None or spread.members is None:
                return None
            found = self._picked(reference, spread, complaints) if reference.item is not None else spread.members
            if found is None:
                return None
            members += found
            collection = collection or (spread.collection and reference.item is None)
        return tuple(members), collection

    def _looked_up(self, reference: Reference, complaints: dict[Complaint, None]) -> Spread | None:
        if reference.node not in self.names:
            near = did_you_mean(reference.node, self.names)
            complaints[Complaint(reference.path, f"unknown node '{shortened(reference.node)}'{near}")] = None
        return self.spread.get(reference.node)

    @staticmethod
    def _picked(reference: Reference, spread: Spread, complaints: dict[Complaint, None]) -> tuple[Member, ...] | None:
        found = spread.by_item.get(reference.item)
        if found is not None:
            return (found,)
        known = [one.item for one in spread.members or () if one.item is not None]
        what = f"has no item '{reference.item}'{did_you_mean(str(reference.item), known)}" if known else ""
        message = f"'{reference.node}' {what or 'is not a collection: name it without [...]'}"
        complaints[Complaint(reference.path, message)] = None
        return None


def _step(
    draft: Draft, item: str | None, row: Item, feeds: Mapping[str, Feed], params: OpParams, gives: EdgeType
) -> Step:
    return Step(
        id=draft.name if item is None else f"{draft.name}[{item}]",
        node=draft.name,
        item=item,
        op=draft.op,
        params=params,
        inputs={port: feed.at(row) for port, feed in feeds.items()},
        include=tuple(str(fill_items(glob, row.names)) for glob in draft.include),
        exclude=tuple(str(fill_items(glob, row.names)) for glob in draft.exclude),
        gives=gives,
    )


def _label(member: Member) -> str:
    return member.item if member.item is not None else member.step


def _feed_of(
    port: Port, members: tuple[Member, ...], collection: bool, name: str, complaints: dict[Complaint, None]
) -> Feed:
    rows = tuple((one.step, _label(one)) for one in members)
    if port.many:
        if len(rows) < port.min_count:
            complaints[Complaint((name,), f"'{name}' takes at least {port.min_count}, found {len(rows)}")] = None
        return Feed.all_of(rows)
    if not collection and not port.each:
        return Feed.one(rows[0])
    labels = [label for _, label in rows]
    twice = sorted(label for label, count in Counter(labels).items() if count > 1)
    if twice:
        complaints[Complaint((name,), f"found '{twice[0]}' twice, expected each once")] = None
    return Feed.mapping(rows, {_label(one): one.names for one in members})
