"""Every check of a recipe's nodes, and the graph where none of them fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lines_pipeline.core.errors import Problem
from lines_pipeline.recipe.assembly import Assembly, circles, node_order
from lines_pipeline.recipe.drafts import Draft, draft_node
from lines_pipeline.recipe.graph import Graph
from lines_pipeline.recipe.places import Document, Place
from lines_pipeline.recipe.schema import Tune
from lines_pipeline.recipe.step_checks import step_complaints
from lines_pipeline.recipe.tuning import tune_complaints
from lines_pipeline.recipe.validation import Complaint


def checked_graph(document: Document, recorded: Mapping[str, Any], tune: Tune | None) -> tuple[Graph, list[Problem]]:
    """The graph of a filled document, and all problems of its nodes and its ``tune``; ``recorded`` hides secrets."""
    from lines_pipeline.ops import registry

    nodes = {name: fields for name, fields in document.data["nodes"].items() if isinstance(fields, Mapping)}
    problems: list[Problem] = []
    drafts: dict[str, Draft] = {}
    broken = set()
    for name, fields in nodes.items():
        draft, found = draft_node(name, fields, registry())
        problems += node_problems(document, name, found)
        broken |= {name} if found else set()
        if draft is not None:
            drafts[name] = draft
    problems += _circle_problems(document, drafts)
    assembly = Assembly(document.data["nodes"], {name: draft.gives for name, draft in drafts.items()})
    for name in node_order(drafts):
        steps_before = dict(assembly.steps)
        problems += node_problems(document, name, assembly.add(drafts[name], recorded["nodes"][name]))
        if name in broken:
            assembly.steps = steps_before
            assembly.forget(name)
    graph = _graph(assembly, drafts, recorded["nodes"])
    for name, complaint in step_complaints(graph.steps.values()):
        problems += node_problems(document, name, [complaint])
    if not any(draft.op.name in ("save", "evaluate") for draft in drafts.values()) and len(drafts) == len(nodes):
        message = "the recipe has no 'save' or 'evaluate' node: nothing would run; add one"
        problems.append(document.places.key(("nodes",)).problem(message))
    if tune is not None:
        for one in tune_complaints(tune, drafts, assembly, graph):
            problems.append(_place(document, one).problem(one.message))
    return graph, problems


def node_problems(document: Document, name: str, complaints: Iterable[Complaint]) -> list[Problem]:
    """Complaints about a node, with their places."""
    rooted = [Complaint(("nodes", name, *one.path), one.message, one.at_key) for one in complaints]
    return [_place(document, one).problem(_named(one), name) for one in rooted]


def _named(complaint: Complaint) -> str:
    """The message, led by the field it is about where the message does not name it."""
    field = complaint.path[2] if len(complaint.path) > 2 else ""
    led = field and not complaint.at_key and f"'{field}'" not in complaint.message and field != "op"
    return f"'{field}': {complaint.message}" if led else complaint.message


def _place(document: Document, complaint: Complaint) -> Place:
    places = document.places
    return places.key(complaint.path) if complaint.at_key else places.value(complaint.path)


def _circle_problems(document: Document, drafts: Mapping[str, Draft]) -> list[Problem]:
    return [
        document.places.key(("nodes", circle[0])).problem(
            f"nodes depend on each other in a circle: {_shown(circle)}", circle[0]
        )
        for circle in circles(drafts)
    ]


def _shown(circle: list[str]) -> str:
    return " -> ".join(circle if len(circle) <= 12 else [*circle[:10], "...", circle[-1]])


def _graph(assembly: Assembly, drafts: Mapping[str, Draft], recorded: Mapping[str, Mapping[str, Any]]) -> Graph:
    found: dict[str, list[str]] = {}
    for step in assembly.steps.values():
        found.setdefault(step.node, []).append(step.id)
    members = {node: tuple(steps) for node, steps in found.items()}
    written = {name: {param: recorded[name][param] for param in drafts[name].params} for name in members}
    return Graph(assembly.steps, members, written)
