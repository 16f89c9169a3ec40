"""Checks ``tune`` against the graph: its parameters, their values, and an objective that may be optimised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import networkx

from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.types import EdgeType
from lines_pipeline.recipe.assembly import Assembly
from lines_pipeline.recipe.drafts import Draft, parameter_names
from lines_pipeline.recipe.graph import Graph
from lines_pipeline.recipe.objective import Objective, parse_objective
from lines_pipeline.recipe.places import Path
from lines_pipeline.recipe.schema import MAX_GRID, Space, Tune
from lines_pipeline.recipe.validation import Complaint, described

_METRICS = ("accuracy/", "mean_accuracy", "normalized_accuracy/", "mean_normalized_accuracy")
_TARGET_METRICS = ("target_accuracy", "control_accuracy", "target_normalized_accuracy", "control_normalized_accuracy")


def tune_complaints(tune: Tune, drafts: Mapping[str, Draft], assembly: Assembly, graph: Graph) -> list[Complaint]:
    """Everything that is wrong with ``tune``, by path from the top of the recipe."""
    complaints = _sampler_complaints(tune)
    objective, found = _read_objective(tune)
    complaints += found
    judged: set[str] = set()
    if objective is not None:
        complaints += _objective_complaints(objective, drafts, graph)
        judged = {step.partition("[")[0] for _, step, _ in objective.terms}
    upstream = _upstream(drafts, judged) if judged <= drafts.keys() else set()
    for name, space in tune.parameters.items():
        path = ("tune", "parameters", name)
        found = _parameter_complaints(path, name, drafts, upstream)
        complaints += found or _value_complaints(path, name, space, drafts, assembly)
    return complaints


def _sampler_complaints(tune: Tune) -> list[Complaint]:
    complaints = []
    if tune.sampler != "grid" and tune.trials is None:
        complaints.append(Complaint(("tune",), f"the sampler '{tune.sampler}' needs 'trials', the number to run", True))
    if tune.sampler == "grid" and tune.trials is not None:
        complaints.append(Complaint(("tune", "trials"), "the grid tries every combination; leave 'trials' out", True))
    for name, space in tune.parameters.items():
        path = ("tune", "parameters", name)
        if tune.sampler == "grid" and space.choices() is None:
            complaints.append(Complaint(path, "the grid needs 'step' or 'values', or take another sampler", True))
        if tune.sampler == "cmaes" and space.values is not None:
            complaints.append(Complaint(path, "'cmaes' needs ranges of numbers, found a list of values", True))
    if tune.sampler == "grid":
        total = math.prod(len(space.choices() or ()) for space in tune.parameters.values())
        if total > MAX_GRID:
            found = f"the grid has {total:,} combinations, expected at most {MAX_GRID:,}"
            complaints.append(Complaint(("tune", "parameters"), found, True))
    return complaints


def _read_objective(tune: Tune) -> tuple[Objective | None, list[Complaint]]:
    try:
        return parse_objective(tune.objective), []
    except ValueError as error:
        return None, [Complaint(("tune", "objective"), str(error))]


def _objective_complaints(objective: Objective, drafts: Mapping[str, Draft], graph: Graph) -> list[Complaint]:
    messages = []
    for _, step_id, metric in objective.terms:
        message = _node_message(step_id, drafts, graph)
        if message is None and step_id in graph.steps:
            message = _metric_message(step_id, metric, graph) or _test_message(step_id, graph)
        messages += [message] if message else []
    return [Complaint(("tune", "objective"), message) for message in dict.fromkeys(messages)]


def _node_message(step_id: str, drafts: Mapping[str, Draft], graph: Graph) -> str | None:
    node = step_id.partition("[")[0]
    judges = [name for name, draft in drafts.items() if draft.op.gives == EdgeType.METRICS]
    if node not in drafts:
        return f"the objective names the unknown node '{node}'{did_you_mean(node, judges)}"
    if node not in judges:
        return f"the objective names '{node}', a node of '{drafts[node].op.name}', expected an 'evaluate' node"
    members = graph.members.get(node)
    if not members or step_id in members:
        return None
    if step_id == node:
        return f"'{node}' is a collection: name one of its members, such as {members[0]}"
    return f"the objective names the unknown member '{step_id}'{did_you_mean(step_id, members)}"


def _metric_message(step_id: str, metric: str, graph: Graph) -> str | None:
    has_target = getattr(graph.steps[step_id].params, "target", None) is not None
    known = [*_METRICS, *(_TARGET_METRICS if has_target else ())]
    if metric in known and not metric.endswith("/"):
        return None
    if any(metric.startswith(name) and len(metric) > len(name) for name in known if name.endswith("/")):
        return None
    if metric in _TARGET_METRICS:
        return f"'{step_id}' gives '{metric}' only with a 'target'; name the target task there"
    plain = [name + "<task>" if name.endswith("/") else name for name in known]
    return f"'{step_id}' has no metric '{metric}'{did_you_mean(metric, known)}; it gives: {', '.join(plain)}"


def _test_message(step_id: str, graph: Graph) -> str | None:
    seen = [graph.steps[name] for name in graph.needed([step_id])]
    on_test = [step.id for step in seen if getattr(step.params, "split", None) == "test"]
    if not on_test:
        return None
    return f"the objective depends on '{on_test[0]}' with 'split: test'; choose on the validation split (val)"


def _upstream(drafts: Mapping[str, Draft], judged: set[str]) -> set[str]:
    graph = networkx.DiGraph([(source, name) for name, draft in drafts.items() for source in draft.named()])
    inside = [node for node in judged if node in graph]
    return set(inside).union(*(networkx.ancestors(graph, node) for node in inside)) | judged


def _parameter_complaints(path: Path, name: str, drafts: Mapping[str, Draft], upstream: set[str]) -> list[Complaint]:
    node, _, parameter = name.partition(".")
    if not parameter or node not in drafts:
        known = [f"{other}.{each}" for other, draft in drafts.items() for each in parameter_names(draft.op)]
        return [Complaint(path, f"no node has the parameter '{name}'{did_you_mean(name, known)}", at_key=True)]
    op = drafts[node].op
    if parameter not in parameter_names(op):
        known = parameter_names(op)
        listed = f"; '{op.name}' has: {', '.join(known)}" if known else f"; '{op.name}' has none"
        found = f"'{node}' has no parameter '{parameter}'{did_you_mean(parameter, known)}{listed}"
        return [Complaint(path, found, at_key=True)]
    if op.gives == EdgeType.METRICS or op.is_source or op.name == "save" or parameter == "split":
        return [
            Complaint(path, f"'{parameter}' of '{op.name}' is not for tuning: it changes what is judged", at_key=True)
        ]
    if upstream and node not in upstream:
        return [Complaint(path, f"the objective does not depend on '{node}': tuning it changes nothing", at_key=True)]
    return []


def _value_complaints(
    path: Path, name: str, space: Space, drafts: Mapping[str, Draft], assembly: Assembly
) -> list[Complaint]:
    """What is wrong with the node when the parameter has the values to be tried, where it is right as written."""
    node, _, parameter = name.partition(".")
    if assembly.spread[node].members is None:
        return []
    for value in space.samples():
        draft = replace(drafts[node], params={**drafts[node].params, parameter: _as_list(value)})
        found: list[Any] = assembly.tried(draft, {parameter: value})[2]
        if found:
            return [Complaint(path, f"with '{parameter}' as {described(value)}: {found[0].message}", at_key=True)]
    return []


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
