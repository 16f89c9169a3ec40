"""From accuracies to the metrics of a node: means, normalized by experts, target against control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from lines_pipeline.core.errors import EvalError

Reference = Callable[[str], float | None]
"""The accuracy that a suite records for a task, if it does."""


def metrics(
    accuracies: Mapping[str, float], expert: Reference, pretrained: Reference, target: str | None = None
) -> dict[str, float]:
    """``accuracy/<task>``, ``normalized_accuracy/<task>``, their means, and with ``target`` the four figures of a
    forgetting study. Accuracies are shares in 0..1; normalized ones over the task's own expert (control tasks: over the
    pretrained model). Metrics whose reference the suite does not record are absent.
    """
    found = {f"accuracy/{task}": value for task, value in accuracies.items()}
    found["mean_accuracy"] = fmean(accuracies.values())
    normalized = _normalized(accuracies, expert)
    found |= {f"normalized_accuracy/{task}": value for task, value in normalized.items()}
    if normalized.keys() == accuracies.keys():
        found["mean_normalized_accuracy"] = fmean(normalized.values())
    if target is not None:
        found |= _target_metrics(accuracies, expert, pretrained, target)
    return found


def _target_metrics(
    accuracies: Mapping[str, float], expert: Reference, pretrained: Reference, target: str
) -> dict[str, float]:
    control = {task: value for task, value in accuracies.items() if task != target}
    if not control:
        raise EvalError(f"target '{target}' leaves no control task: evaluate more than one task")
    found = {"target_accuracy": accuracies[target], "control_accuracy": fmean(control.values())}
    own, others = _normalized({target: accuracies[target]}, expert), _normalized(control, pretrained)
    if own:
        found["target_normalized_accuracy"] = own[target]
    if others.keys() == control.keys():
        found["control_normalized_accuracy"] = fmean(others.values())
    return found


def _normalized(accuracies: Mapping[str, float], reference: Reference) -> dict[str, float]:
    """Shares of the references; tasks without one, or with one of 0, are absent."""
    found = {task: reference(task) for task in accuracies}
    return {task: accuracies[task] / value for task, value in found.items() if value}
