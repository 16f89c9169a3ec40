"""Checks a recipe's nodes, and builds the graph where no check fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lines_pipeline.core.errors import Diagnostic, RecipeError
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.recipe.binding.binder import Binder, circles, node_order
from lines_pipeline.recipe.binding.derivation_checks import derivation_complaints
from lines_pipeline.recipe.binding.nodes import UnboundNode, unbound_node
from lines_pipeline.recipe.binding.objective import MetricsOf
from lines_pipeline.recipe.binding.step_checks import step_complaints
from lines_pipeline.recipe.binding.tuning import metric_message, tune_complaints
from lines_pipeline.recipe.binding.validation import Complaint
from lines_pipeline.recipe.plugins import Plugins
from lines_pipeline.recipe.schema import Tune
from lines_pipeline.recipe.syntax.source_map import Document, SourceLocation


def checked_graph(
    document: Document,
    recorded: Mapping[str, Any],
    tune: Tune | None,
    plugins: Plugins,
    metrics_of: MetricsOf = lambda step: None,
) -> tuple[Graph, list[Diagnostic]]:
    """Return the graph of a filled document, and all problems of nodes and ``tune``; ``recorded`` hides secrets.

    ``metrics_of`` tells what objectives may name; without it only nodes are checked.
    """
    try:
        ops = plugins.ops
    except RecipeError as error:  # without them, most nodes would be told to have unknown ops
        return Graph({}, {}), list(error.diagnostics)
    nodes = {name: fields for name, fields in document.data["nodes"].items() if isinstance(fields, Mapping)}
    diagnostics: list[Diagnostic] = []
    unbound_nodes: dict[str, UnboundNode] = {}
    broken = set()
    for name, fields in nodes.items():
        unbound, found = unbound_node(name, fields, ops, plugins.untrusted)
        diagnostics += node_diagnostics(document, name, found)
        broken |= {name} if found else set()
        if unbound is not None:
            unbound_nodes[name] = unbound
    diagnostics += _circle_diagnostics(document, unbound_nodes)
    seed = document.data.get("seed")
    gives = {name: unbound.gives for name, unbound in unbound_nodes.items()}
    binder = Binder(document.data["nodes"], gives, seed if isinstance(seed, int) else 0)
    for name in node_order(unbound_nodes):
        steps_before = dict(binder.steps)
        diagnostics += node_diagnostics(document, name, binder.add(unbound_nodes[name], recorded["nodes"][name]))
        if name in broken:
            binder.steps = steps_before
            binder.poison(name)
    graph = _graph(binder, unbound_nodes, recorded["nodes"])
    complaints = (
        *_once(step_complaints(graph.steps.values())),
        *_once(_objectives(graph.steps.values(), metrics_of)),
        *_once(derivation_complaints(graph, metrics_of)),
    )
    for name, complaint in complaints:
        diagnostics += node_diagnostics(document, name, [complaint])
    if not any(unbound.op.is_output for unbound in unbound_nodes.values()) and len(unbound_nodes) == len(nodes):
        outputs = ", ".join(f"'{name}'" for name, op in ops.at_hand.items() if op.is_output)
        message = f"the recipe has no node that a run is for ({outputs}): nothing would run; add one"
        diagnostics.append(document.source_map.key(("nodes",)).diagnostic(message))
    if tune is not None:
        for one in tune_complaints(tune, unbound_nodes, binder, graph, metrics_of):
            diagnostics.append(_place(document, one).diagnostic(one.message))
    return graph, diagnostics


def _once(complaints: Iterable[tuple[str, Complaint]]) -> Iterator[tuple[str, Complaint]]:
    """Yield the first complaint of each place: members of a collection share it."""
    told = set()
    for node, complaint in complaints:
        if (node, complaint.path) not in told:
            told.add((node, complaint.path))
            yield node, complaint


def _objectives(steps: Iterable[Step], metrics_of: MetricsOf) -> Iterator[tuple[str, Complaint]]:
    """Return node and complaint for every step that chooses by a metric which its suite does not declare."""
    for step in steps:
        use = step.op.suite_of(step.params, step.inputs)
        metric = None if use is None else use.objective
        message = None if metric is None else metric_message(step.node, metric, metrics_of(step))
        if message is not None:
            yield step.node, Complaint(("objective",), message)


def node_diagnostics(document: Document, name: str, complaints: Iterable[Complaint]) -> list[Diagnostic]:
    """Return complaints about a node as diagnostics, which have places in files."""
    rooted = [Complaint(("nodes", name, *one.path), one.message, one.at_key) for one in complaints]
    return [_place(document, one).diagnostic(_named(one), name) for one in rooted]


def _named(complaint: Complaint) -> str:
    """Return the message, led by the field it is about where the message does not name it."""
    field = complaint.path[2] if len(complaint.path) > 2 else ""
    named = any(f"'{field}{end}" in complaint.message for end in ("'", "."))
    led = field and not complaint.at_key and not named and field != "op"
    return f"'{field}': {complaint.message}" if led else complaint.message


def _place(document: Document, complaint: Complaint) -> SourceLocation:
    source_map = document.source_map
    return source_map.key(complaint.path) if complaint.at_key else source_map.value(complaint.path)


def _circle_diagnostics(document: Document, unbound_nodes: Mapping[str, UnboundNode]) -> list[Diagnostic]:
    return [
        document.source_map.key(("nodes", circle[0])).diagnostic(
            f"nodes depend on each other in a circle: {_shown(circle)}", circle[0]
        )
        for circle in circles(unbound_nodes)
    ]


def _shown(circle: list[str]) -> str:
    return " -> ".join(circle if len(circle) <= 12 else [*circle[:10], "...", circle[-1]])


def _graph(
    binder: Binder, unbound_nodes: Mapping[str, UnboundNode], recorded: Mapping[str, Mapping[str, Any]]
) -> Graph:
    found: dict[str, list[str]] = {}
    for step in binder.steps.values():
        if not step.port:
            found.setdefault(step.node, []).append(step.id)
    members = {node: tuple(steps) for node, steps in found.items()}
    written = {name: {param: recorded[name][param] for param in unbound_nodes[name].params} for name in members}
    return Graph(binder.steps, members, written)
