"""Gathers the summaries of a node's steps: lists for what differs by expert, single values for what does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lines_pipeline.graph.graph import Graph

Summaries = Mapping[str, Mapping[str, Any]]


def gather_summaries(graph: Graph, by_step: Summaries) -> dict[str, dict[str, Any]]:
    """Return summaries by node: lists of a collection are joined in item order, equal values stand once."""
    by_node: dict[str, dict[str, Any]] = {}
    for node, members in graph.members.items():
        of_members = [by_step[step] for step in members if step in by_step]
        if of_members:
            by_node[node] = {
                name: _joined([summary[name] for summary in of_members if name in summary]) for name in of_members[0]
            }
    return by_node


def shown_figures(graph: Graph, by_node: Summaries) -> dict[str, Any]:
    """Return the figures of summaries that the result of a run shows, by node and name (``scaled.alpha``)."""
    figures: dict[str, Any] = {}
    for node, summary in by_node.items():
        steps = [graph.steps[step] for step in graph.members[node]]
        names = dict.fromkeys(name for step in steps for name in step.op.shown_figures(step.params))
        figures |= {f"{node}.{name}": summary[name] for name in names if name in summary}
    return figures


def _joined(values: list[Any]) -> Any:
    if all(isinstance(value, list) for value in values):
        return [entry for value in values for entry in value]
    return values[0] if all(value == values[0] for value in values) else values
