"""Checks ``tune`` against the graph: its parameters, their values, and an objective that may be optimised."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import networkx

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.types import HELD_OUT, EdgeType
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.binding.binder import Binder
from lines_pipeline.recipe.binding.nodes import UnboundNode, parameter_names
from lines_pipeline.recipe.binding.objective import (
    DeclaredMetrics,
    MetricsOf,
    Objective,
    default_direction,
    parse_objective,
)
from lines_pipeline.recipe.binding.validation import described
from lines_pipeline.recipe.schema import MAX_GRID, Space, Tune
from lines_pipeline.recipe.syntax.overrides import entry_path
from lines_pipeline.recipe.syntax.source_map import replaced

TRIALS_FOLDER = "tune"
"""The folder, in the output folder, of what shows the trials: no node may write there."""


def tune_diagnostics(
    tune: Tune,
    unbound_nodes: Mapping[str, UnboundNode],
    binder: Binder,
    graph: Graph,
    metrics_of: MetricsOf = lambda step: None,
) -> list[Diagnostic]:
    """Return all diagnostics about ``tune``, by path from the top of the recipe."""
    diagnostics = [*_sampler_diagnostics(tune), *_folder_diagnostics(graph)]
    objective, of_objective = _read_objective(tune)
    diagnostics += of_objective
    evaluated: set[str] = set()
    if objective is not None:
        diagnostics += _objective_diagnostics(objective, unbound_nodes, graph, metrics_of)
        diagnostics += _direction_diagnostics(tune, objective, graph, metrics_of)
        evaluated = {step.partition("[")[0] for _, step, _ in objective.terms}
    upstream = _upstream(unbound_nodes, evaluated) if evaluated <= unbound_nodes.keys() else set()
    for name, space in tune.parameters.items():
        path = ("tune", "parameters", name)
        of_parameter = _parameter_diagnostics(path, name, unbound_nodes, upstream) or _overlaps(path, name, tune)
        diagnostics += of_parameter or _value_diagnostics(path, name, space, unbound_nodes, binder)
    return diagnostics


def _sampler_diagnostics(tune: Tune) -> list[Diagnostic]:
    diagnostics = []
    if tune.sampler != "grid" and tune.trials is None:
        diagnostics.append(
            Diagnostic(("tune",), f"the sampler '{tune.sampler}' needs 'trials', the number to run", True)
        )
    if tune.sampler == "grid" and tune.trials is not None:
        diagnostics.append(Diagnostic(("tune", "trials"), "the grid tries every combination; leave 'trials' out", True))
    for name, space in tune.parameters.items():
        path = ("tune", "parameters", name)
        if tune.sampler == "grid" and space.choices() is None:
            diagnostics.append(Diagnostic(path, "the grid needs 'step' or 'values', or take another sampler", True))
        if tune.sampler == "cmaes" and space.values is not None:
            diagnostics.append(Diagnostic(path, "'cmaes' needs ranges of numbers, found a list of values", True))
    if tune.sampler == "grid":
        total = math.prod(len(space.choices() or ()) for space in tune.parameters.values())
        if total > MAX_GRID:
            message = f"the grid has {total:,} combinations, expected at most {MAX_GRID:,}"
            diagnostics.append(Diagnostic(("tune", "parameters"), message, True))
    return diagnostics


def _folder_diagnostics(graph: Graph) -> Iterator[Diagnostic]:
    """Complain, once a node, about files that would lie among those of the trials."""
    for node, members in graph.members.items():
        steps = [graph.steps[member] for member in members]
        files = [step.op.file_of(step.params, step.inputs) for step in steps]
        derivations = [step.op.derivation_of(step.params) for step in steps]
        paths = [file.path for file in files if file]
        paths += [path for derivation in derivations if derivation for path in derivation.files]
        clashing = [path for path in paths if PurePosixPath(path).parts[:1] == (TRIALS_FOLDER,)]
        if clashing:
            message = f"'path' is '{clashing[0]}', but in '{TRIALS_FOLDER}/' are the trials of 'tune'; choose another"
            yield Diagnostic(("nodes", node, "path"), message, node=node)


def _read_objective(tune: Tune) -> tuple[Objective | None, list[Diagnostic]]:
    try:
        return parse_objective(tune.objective), []
    except ValueError as error:
        return None, [Diagnostic(("tune", "objective"), str(error))]


def _direction_diagnostics(tune: Tune, objective: Objective, graph: Graph, metrics_of: MetricsOf) -> list[Diagnostic]:
    def directions(step_id: str) -> Mapping[str, str]:
        declared = metrics_of(graph.steps[step_id]) if step_id in graph.steps else None
        return declared.directions if declared is not None else {}

    if tune.direction is not None or default_direction(objective, directions) is not None:
        return []
    message = "of some metrics in the objective more is better, of others less: say 'direction: maximize' or 'minimize'"
    return [Diagnostic(("tune", "objective"), message)]


def _objective_diagnostics(
    objective: Objective, unbound_nodes: Mapping[str, UnboundNode], graph: Graph, metrics_of: MetricsOf
) -> list[Diagnostic]:
    messages = []
    for _, step_id, metric in objective.terms:
        message = _node_message(step_id, unbound_nodes, graph)
        if message is None and step_id in graph.steps:
            declared = metrics_of(graph.steps[step_id])
            message = metric_message(step_id, metric, declared) or _held_out_message(step_id, graph)
        messages += [message] if message else []
    return [Diagnostic(("tune", "objective"), message) for message in dict.fromkeys(messages)]


def _node_message(step_id: str, unbound_nodes: Mapping[str, UnboundNode], graph: Graph) -> str | None:
    node = step_id.partition("[")[0]
    evaluate_nodes = [name for name, unbound in unbound_nodes.items() if _evaluates(unbound, graph)]
    if node not in unbound_nodes:
        return f"the objective names the unknown node '{node}'{did_you_mean(node, evaluate_nodes)}"
    if node not in evaluate_nodes:
        return f"the objective names '{node}', a node of '{unbound_nodes[node].op.name}', expected an 'evaluate' node"
    members = graph.members.get(node)
    if not members or step_id in members:
        return None
    if step_id == node:
        return f"'{node}' is a collection: name one of its members, such as {members[0]}"
    return f"the objective names the unknown member '{step_id}'{did_you_mean(step_id, members)}"


def _evaluates(unbound: UnboundNode, graph: Graph) -> bool:
    """Return whether a node has a suite judge a model."""
    derived = any(step in graph.derivations for step in graph.members.get(unbound.name, ()))
    return unbound.op.gives == EdgeType.METRICS and not derived and not unbound.op.measures_metrics


def metric_message(step_id: str, metric: str, declared: DeclaredMetrics | None) -> str | None:
    """Return the diagnostic about the name of a metric; None where a step gives it, or where that is not known."""
    if declared is None or metric in declared.directions:
        return None
    if metric in declared.with_target:
        return f"'{step_id}' gives '{metric}' only with a 'target'; name the target task there"
    if metric in declared.lacking:
        return f"'{step_id}' cannot give '{metric}': {declared.lacking[metric]}"
    near = did_you_mean(metric, declared.directions)
    return f"'{step_id}' has no metric '{metric}'{near}; it gives: {declared.shown}"


def _held_out_message(step_id: str, graph: Graph) -> str | None:
    ancestors = [graph.steps[name] for name in graph.ancestors([step_id])]
    uses = {step.id: step.op.suite_of(step.params, step.inputs) for step in ancestors}
    held_out = [(step, use.split) for step, use in uses.items() if use is not None and use.split in HELD_OUT]
    if not held_out:
        return None
    step, split = held_out[0]
    return f"the objective depends on '{step}' with 'split: {split}'; choose on the validation split (val)"


def _upstream(unbound_nodes: Mapping[str, UnboundNode], evaluated: set[str]) -> set[str]:
    graph = networkx.DiGraph([(source, name) for name, unbound in unbound_nodes.items() for source in unbound.named()])
    inside = [node for node in evaluated if node in graph]
    return set(inside).union(*(networkx.ancestors(graph, node) for node in inside)) | evaluated


def _parameter_diagnostics(
    path: FieldPath, name: str, unbound_nodes: Mapping[str, UnboundNode], upstream: set[str]
) -> list[Diagnostic]:
    node, parameter, entry = _parts(name)
    if not parameter or node not in unbound_nodes:
        known = [
            f"{name_of_node}.{own}"
            for name_of_node, unbound in unbound_nodes.items()
            for own in parameter_names(unbound.op)
        ]
        return [Diagnostic(path, f"no node has the parameter '{name}'{did_you_mean(name, known)}", at_key=True)]
    op = unbound_nodes[node].op
    if parameter not in parameter_names(op):
        known = parameter_names(op)
        listed = f"; '{op.name}' has: {', '.join(known)}" if known else f"; '{op.name}' has none"
        bracketed = re.fullmatch(r"(\w+)\[(\d+)\]", parameter)
        near = f"; entries of a list are named '{bracketed[1]}.{bracketed[2]}'" if bracketed else ""
        message = f"'{node}' has no parameter '{parameter}'{near or did_you_mean(parameter, known)}{listed}"
        return [Diagnostic(path, message, at_key=True)]
    if op.gives == EdgeType.METRICS or op.is_source or op.is_output or parameter in op.untuned:
        return [
            Diagnostic(
                path, f"'{parameter}' of '{op.name}' is not for tuning: it changes what is evaluated", at_key=True
            )
        ]
    if upstream and node not in upstream:
        return [Diagnostic(path, f"the objective does not depend on '{node}': tuning it changes nothing", at_key=True)]
    return _entry_diagnostics(path, unbound_nodes[node], parameter, entry) if entry else []


def _parts(name: str) -> tuple[str, str, str]:
    """Return node, parameter, and the path of an entry within it (``scaled.table.2``), empty for the whole."""
    node, _, rest = name.partition(".")
    parameter, _, entry = rest.partition(".")
    return node, parameter, entry


def _entry_diagnostics(path: FieldPath, unbound: UnboundNode, parameter: str, entry: str) -> list[Diagnostic]:
    if parameter not in unbound.params:
        message = f"'{parameter}' of '{unbound.name}' is not written there: write it whole, to tune entries of it"
        return [Diagnostic(path, message, at_key=True)]
    try:
        entry_path(unbound.params[parameter], entry)
    except ValueError as error:
        return [Diagnostic(path, f"'{parameter}' of '{unbound.name}' {error}", at_key=True)]
    return []


def _overlaps(path: FieldPath, name: str, tune: Tune) -> list[Diagnostic]:
    """Complain about a parameter that is tuned as a whole besides."""
    wholes = [other for other in tune.parameters if name.startswith(f"{other}.")]
    return [Diagnostic(path, f"'{whole}' is tuned too, which '{name}' is a part of", at_key=True) for whole in wholes]


def _value_diagnostics(
    path: FieldPath, name: str, space: Space, unbound_nodes: Mapping[str, UnboundNode], binder: Binder
) -> list[Diagnostic]:
    """Return diagnostics about a node, right as written, once the parameter has the values to be tried."""
    node, parameter, entry = _parts(name)
    if binder.bound[node].members is None:
        return []
    params = unbound_nodes[node].params
    inside = entry_path(params[parameter], entry) if entry else ()
    for value in space.samples():
        tried = replaced(params.get(parameter), inside, _as_list(value))
        unbound = replace(unbound_nodes[node], params={**params, parameter: tried})
        of_value: list[Any] = binder.dry_bind(unbound, {parameter: tried if entry else value})[2]
        if of_value:
            shown = name.partition(".")[2]
            return [Diagnostic(path, f"with '{shown}' as {described(value)}: {of_value[0].message}", at_key=True)]
    return []


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
