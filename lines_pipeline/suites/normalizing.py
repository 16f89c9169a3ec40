"""Finds the baselines of a node's metrics: scores of other nodes of the recipe, and figures that the suite records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lines_pipeline.core.errors import EvalError, did_you_mean
from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.suites.base import ROLES, RecordingSuite, Role, Scores, Suite
from lines_pipeline.suites.metrics import Baselines, normalized_names, roles_needed

_WHOSE: Mapping[Role, str] = {"expert": "the expert", "pretrained": "the pretrained model"}
_SHOWN = 3
"""Tasks that a message names."""


@dataclass(frozen=True)
class Known:
    """Holds the scores that are known, by step of a graph."""

    graph: Graph
    scores: Mapping[str, Scores]


def baselines_of(use: SuiteUse, suite: Suite, tasks: Sequence[str], known: Known) -> Baselines:
    """Return the baselines for one use of a suite: of the nodes that it names, and for the rest of the suite."""
    figures: dict[Role, dict[str, dict[str, float]]] = {role: {} for role in ROLES}
    for role in ROLES:
        named = use.baselines.get(role, ())
        if role in roles_needed(use.target) and not named:
            figures[role] = {task: dict(of_task) for task, of_task in suite.baselines(role, tasks, use.split).items()}
        if named:
            evaluations = evaluations_by_task(known.graph, named, tasks)
            figures[role] = {task: dict(known.scores[evaluations[task]].values.get(task, {})) for task in tasks}
    return Baselines(figures["expert"], figures["pretrained"])


def lacking_baselines(use: SuiteUse, suite: Suite, tasks: Sequence[str]) -> dict[str, str]:
    """Return the normalized metrics that one use of a suite cannot give, each with what it lacks and what to do."""
    if not (isinstance(suite, RecordingSuite) and suite.records_baselines):
        return {}
    lacking: dict[str, str] = {}
    for role in roles_needed(use.target):
        normalized = [task for task in tasks if role == "expert" or task != use.target]
        if use.baselines.get(role):
            continue
        recorded = suite.baselines(role, normalized, use.split)
        for metric in suite.metrics:
            without = [task for task in normalized if recorded.get(task, {}).get(metric.name, 0.0) <= 0]
            message = (
                f"{use.suite} records no positive '{metric.name}' of {_WHOSE[role]} on '{use.split}' for "
                f"{_listed(without)}; write '{role}: {{{use.split}: {{{metric.name}: ...}}}}' into each task there, "
                f"or have an 'evaluate' node normalize by others of the recipe ('baselines: {{{role}: ...}}')"
            )
            lacking |= dict.fromkeys(normalized_names(metric, role, without, use.target), message)
    return lacking


def _listed(tasks: Sequence[str]) -> str:
    shown = ", ".join(f"'{task}'" for task in tasks[:_SHOWN])
    return shown if len(tasks) <= _SHOWN else f"{shown} and {len(tasks) - _SHOWN} more tasks"


def evaluations_by_task(graph: Graph, named: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """Return the step that normalizes each task: the only one, or the member of a collection with the task's key.

    Raises ``EvalError`` for a task that is no key.
    """
    if len(named) == 1 and graph.steps[named[0]].item is None:
        return dict.fromkeys(tasks, named[0])
    by_key = {str(graph.steps[step].item): step for step in named}
    if missing := [task for task in tasks if task not in by_key]:
        near = did_you_mean(missing[0], by_key)
        node = graph.steps[named[0]].node
        raise EvalError(f"'{node}' has no member for the task '{missing[0]}'{near}; it has: {', '.join(by_key)}")
    return {task: by_key[task] for task in tasks}
