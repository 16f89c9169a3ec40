"""Checks a recipe's nodes, and builds the graph where no check fails."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.recipe.binding.binder import Binder
from lines_pipeline.recipe.binding.derivation_checks import derivation_diagnostics
from lines_pipeline.recipe.binding.nodes import UnboundNode, unbound_node
from lines_pipeline.recipe.binding.objective import MetricsOf
from lines_pipeline.recipe.binding.order import circles, node_order
from lines_pipeline.recipe.binding.step_checks import step_diagnostics
from lines_pipeline.recipe.binding.tuning import metric_message, tune_diagnostics
from lines_pipeline.recipe.plugins import Plugins
from lines_pipeline.recipe.schema import Tune
from lines_pipeline.recipe.syntax.source_map import Document


def checked_graph(
    document: Document,
    recorded: Mapping[str, Any],
    tune: Tune | None,
    plugins: Plugins,
    metrics_of: MetricsOf = lambda step: None,
) -> tuple[Graph, list[Diagnostic]]:
    """Return the graph of a filled document, and the diagnostics of nodes and ``tune``; ``recorded`` hides secrets.

    ``metrics_of`` tells what objectives may name; without it only nodes are checked.
    """
    try:
        ops = plugins.ops
    except RecipeError as error:  # without them, most nodes would be told to have unknown ops
        return Graph({}, {}), list(error.diagnostics)
    nodes = {name: fields for name, fields in document.data["nodes"].items() if isinstance(fields, Mapping)}
    unbound_nodes, diagnostics, broken = _unbound_nodes(document, nodes, plugins)
    diagnostics += _circle_diagnostics(document, unbound_nodes)
    binder, of_binding = _bound(document, recorded["nodes"], unbound_nodes, broken)
    graph = _graph(binder, unbound_nodes, recorded["nodes"])
    diagnostics += of_binding + _of_steps(document, graph, metrics_of)
    if not any(unbound.op.is_output for unbound in unbound_nodes.values()) and len(unbound_nodes) == len(nodes):
        outputs = ", ".join(f"'{name}'" for name, op in ops.at_hand.items() if op.is_output)
        message = f"the recipe has no node that a run is for ({outputs}): nothing would run; add one"
        diagnostics.append(document.source_map.key(("nodes",)).diagnostic(message))
    if tune is not None:
        of_tune = tune_diagnostics(tune, unbound_nodes, binder, graph, metrics_of)
        diagnostics += map(document.source_map.locate, of_tune)
    return graph, diagnostics


def _unbound_nodes(
    document: Document, nodes: Mapping[str, Mapping[str, Any]], plugins: Plugins
) -> tuple[dict[str, UnboundNode], list[Diagnostic], set[str]]:
    """Return the nodes whose ops are known, the diagnostics of all, and the names of those that have some."""
    unbound_nodes: dict[str, UnboundNode] = {}
    diagnostics: list[Diagnostic] = []
    broken = set()
    for name, fields in nodes.items():
        unbound, of_node = unbound_node(name, fields, plugins.ops, plugins.untrusted)
        diagnostics += _in_node(document, name, of_node)
        broken |= {name} if of_node else set()
        if unbound is not None:
            unbound_nodes[name] = unbound
    return unbound_nodes, diagnostics, broken


def _bound(
    document: Document, recorded: Mapping[str, Any], unbound_nodes: Mapping[str, UnboundNode], broken: Collection[str]
) -> tuple[Binder, list[Diagnostic]]:
    """Bind nodes in topological order; those that are ``broken`` are checked, and unknown to their dependants."""
    seed = document.data.get("seed")
    gives = {name: unbound.gives for name, unbound in unbound_nodes.items()}
    binder = Binder(document.data["nodes"], gives, seed if isinstance(seed, int) else 0)
    diagnostics: list[Diagnostic] = []
    for name in node_order(unbound_nodes):
        steps_before = dict(binder.steps)
        diagnostics += _in_node(document, name, binder.add(unbound_nodes[name], recorded[name]))
        if name in broken:
            binder.steps = steps_before
            binder.poison(name)
    return binder, diagnostics


def _of_steps(document: Document, graph: Graph, metrics_of: MetricsOf) -> list[Diagnostic]:
    """Return the diagnostics of bound steps."""
    by_check = (
        step_diagnostics(graph.steps.values()),
        _objectives(graph.steps.values(), metrics_of),
        derivation_diagnostics(graph, metrics_of),
    )
    pairs = [pair for diagnostics in by_check for pair in _once(diagnostics)]
    return [located for node, diagnostic in pairs for located in _in_node(document, node, [diagnostic])]


def _once(diagnostics: Iterable[tuple[str, Diagnostic]]) -> Iterator[tuple[str, Diagnostic]]:
    """Yield the first diagnostic of each node and path: the members of a collection share it."""
    places = set()
    for node, diagnostic in diagnostics:
        if (node, diagnostic.path) not in places:
            places.add((node, diagnostic.path))
            yield node, diagnostic


def _objectives(steps: Iterable[Step], metrics_of: MetricsOf) -> Iterator[tuple[str, Diagnostic]]:
    """Yield node and diagnostic for every step that chooses by a metric which its suite does not declare."""
    for step in steps:
        use = step.op.suite_of(step.params, step.inputs)
        metric = None if use is None else use.objective
        message = None if metric is None else metric_message(step.node, metric, metrics_of(step))
        if message is not None:
            yield step.node, Diagnostic(("objective",), message)


def _in_node(document: Document, name: str, diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Return diagnostics of a node, whose paths start at it, with their spots in files."""
    locate = document.source_map.locate
    return [
        replace(locate(diagnostic.below("nodes", name)), message=_named(diagnostic), node=name)
        for diagnostic in diagnostics
    ]


def _named(diagnostic: Diagnostic) -> str:
    """Return the message, led by the field it is about where the message does not name it."""
    field = diagnostic.path[0] if diagnostic.path else ""
    named = any(f"'{field}{end}" in diagnostic.message for end in ("'", "."))
    led = field and not diagnostic.at_key and not named and field != "op"
    return f"'{field}': {diagnostic.message}" if led else diagnostic.message


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
    step_ids: dict[str, list[str]] = {}
    for step in binder.steps.values():
        if not step.port:
            step_ids.setdefault(step.node, []).append(step.id)
    members = {node: tuple(ids) for node, ids in step_ids.items()}
    written = {name: {param: recorded[name][param] for param in unbound_nodes[name].params} for name in members}
    return Graph(binder.steps, members, written)
