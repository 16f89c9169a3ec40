"""Makes the metrics of a node from scores: means and worst tasks, normalized figures, target and control, intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.units import SHARE
from lines_pipeline.suites.base import Metric, Role, Scores
from lines_pipeline.suites.intervals import intervals

Figures = Mapping[str, Mapping[str, float]]
"""By task and metric."""


@dataclass(frozen=True)
class Baselines:
    """Holds the figures that normalize; a figure that is not known is absent."""

    expert: Figures = field(default_factory=dict)
    pretrained: Figures = field(default_factory=dict)


def described(declared: Sequence[Metric], tasks: Sequence[str], target: str | None = None) -> dict[str, Metric]:
    """Return every metric that a node may have, by its full name, with that name, its unit and direction."""
    by_name: dict[str, Metric] = {}
    for metric in declared:
        normalized = replace(metric, unit=SHARE, direction="higher")
        names = {f"{metric.name}/{task}": metric for task in tasks}
        means = {f"mean_{metric.name}": metric} if metric.averaging != "none" else {}
        names |= {**means, f"worst_{metric.name}": metric}
        names |= {f"normalized_{metric.name}/{task}": normalized for task in tasks}
        names[f"mean_normalized_{metric.name}"] = normalized
        if target is not None:
            names |= {f"{part}_{metric.name}": metric for part in ("target", "control")}
            names |= {f"{part}_normalized_{metric.name}": normalized for part in ("target", "control")}
        names |= {f"{metric.name}/{task}/{end}": metric for task in tasks for end in ("low", "high")}
        by_name |= {name: replace(metric, name=name) for name, metric in names.items()}
    return by_name


def spoken(declared: Sequence[Metric], *, target: bool) -> str:
    """Return the metrics of ``described`` as messages list them: ``<metric>/<task>, ... of accuracy, loss``."""
    names = described([Metric("<metric>")], ["<task>"], "" if target else None)
    plain = [name for name in names if not name.endswith(("/low", "/high"))]
    return f"{', '.join(plain)} of {', '.join(metric.name for metric in declared)}"


def node_metrics(
    declared: Sequence[Metric], scores: Scores, baselines: Baselines, target: str | None = None
) -> dict[str, float]:
    """Return all metrics of a node, metric by metric; those whose scores or baselines are not known are absent.

    ``normalized_<metric>/<task>`` is the figure over that of the task's own expert where higher is better, the expert's
    over the figure where lower is; there is none for a baseline or a figure that is zero or negative.
    """
    metrics: dict[str, float] = {}
    for metric in declared:
        values = {task: figures[metric.name] for task, figures in scores.values.items() if metric.name in figures}
        if values:
            metrics |= _figures(metric, values, whole=len(values) == len(scores.values))
            metrics |= _normalized_figures(metric, values, baselines, whole=len(values) == len(scores.values))
            if target is not None:
                metrics |= _target_figures(metric, values, baselines, target)
    for task, samples in scores.samples.items():
        for name, (low, high) in intervals(samples).items():
            metrics |= {f"{name}/{task}/low": low, f"{name}/{task}/high": high}
    return metrics


def _figures(metric: Metric, values: Mapping[str, float], *, whole: bool) -> dict[str, float]:
    metrics = {f"{metric.name}/{task}": value for task, value in values.items()}
    if not whole:
        return metrics
    if metric.averaging != "none":
        metrics[f"mean_{metric.name}"] = _mean(metric, list(values.values()))
    worst = min if metric.direction == "higher" else max
    return metrics | {f"worst_{metric.name}": worst(values.values())}


def _mean(metric: Metric, values: Sequence[float]) -> float:
    if metric.averaging == "geometric":
        return math.exp(fmean(map(math.log, values))) if min(values) > 0 else math.nan
    return fmean(values)


def _normalized_figures(
    metric: Metric, values: Mapping[str, float], baselines: Baselines, *, whole: bool
) -> dict[str, float]:
    normalized = _normalized(metric, values, baselines.expert)
    metrics = {f"normalized_{metric.name}/{task}": value for task, value in normalized.items()}
    if whole and normalized.keys() == values.keys():
        metrics[f"mean_normalized_{metric.name}"] = fmean(normalized.values())
    return metrics


def _target_figures(metric: Metric, values: Mapping[str, float], baselines: Baselines, target: str) -> dict[str, float]:
    control = {task: value for task, value in values.items() if task != target}
    if not control:
        raise EvalError(f"target '{target}' leaves no control task: evaluate more than one task")
    metrics: dict[str, float] = {}
    if target in values:
        metrics[f"target_{metric.name}"] = values[target]
        own = _normalized(metric, {target: values[target]}, baselines.expert)
        metrics |= {f"target_normalized_{metric.name}": value for value in own.values()}
    if metric.averaging != "none":
        metrics[f"control_{metric.name}"] = _mean(metric, list(control.values()))
    normalized = _normalized(metric, control, baselines.pretrained)
    if normalized.keys() == control.keys():
        metrics[f"control_normalized_{metric.name}"] = fmean(normalized.values())
    return metrics


def _normalized(metric: Metric, values: Mapping[str, float], baselines: Figures) -> dict[str, float]:
    known = {task: baselines.get(task, {}).get(metric.name) for task in values}
    higher = metric.direction == "higher"
    return {
        task: values[task] / baseline if higher else baseline / values[task]
        for task, baseline in known.items()
        if baseline is not None and baseline > 0 and (values[task] >= 0 if higher else values[task] > 0)
    }


def roles_needed(target: str | None) -> tuple[Role, ...]:
    """Return the roles whose baselines the metrics of a node are made with."""
    return ("expert",) if target is None else ("expert", "pretrained")


def normalized_names(metric: Metric, role: Role, tasks: Sequence[str], target: str | None = None) -> list[str]:
    """Return the metrics of a node that need the baselines of a role for any of ``tasks``."""
    if role == "pretrained":
        return [f"control_normalized_{metric.name}"] if tasks else []
    names = [f"normalized_{metric.name}/{task}" for task in tasks]
    of_target = [f"target_normalized_{metric.name}"] if target in tasks else []
    return [*names, *([f"mean_normalized_{metric.name}"] if tasks else []), *of_target]
