"""Tells the binder which metrics a step may give, without loading anything."""

from __future__ import annotations

from pathlib import Path

from lines_pipeline.core.errors import LinesError
from lines_pipeline.graph.graph import Step
from lines_pipeline.recipe.binding.objective import DeclaredMetrics
from lines_pipeline.suites.metrics import described, spoken
from lines_pipeline.suites.normalizing import lacking_baselines
from lines_pipeline.suites.opening import chosen_tasks, open_suite


def declared_metrics(step: Step, folder: Path) -> DeclaredMetrics | None:
    """Return the metrics of a step that its suite declares; None where none does, or where it is told of elsewhere.

    ``folder`` is the recipe's.
    """
    use = step.op.suite_of(step.params, step.inputs)
    if use is None or step.op.measures_metrics:
        return None
    target = use.target
    try:
        suite = open_suite(use.suite, folder)
        tasks = chosen_tasks(suite, use.suite, use.tasks, target)
    except LinesError:  # where suites are opened, with the place in the recipe
        return None
    metrics, lacking = described(suite.metrics, tasks, target), lacking_baselines(use, suite, tasks)
    directions = {name: metric.direction for name, metric in metrics.items() if name not in lacking}
    with_target = frozenset(described(suite.metrics, tasks, tasks[0])) - metrics.keys()
    return DeclaredMetrics(directions, spoken(suite.metrics, target=target is not None), with_target, lacking)
