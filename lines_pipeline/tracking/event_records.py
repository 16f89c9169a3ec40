"""What a run's record holds of events that tell results: metrics, tags, artifacts; it depends on the event alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

from lines_pipeline.core.events import (
    BlockScales,
    Event,
    FigureDrawn,
    InputsIdentified,
    LearningProgress,
    MetricsComputed,
    SamplesJudged,
    SummaryComputed,
    TableComputed,
)
from lines_pipeline.tracking.names import means_first, mlflow_name, step_path

INPUTS_FILE = "inputs.json"
"""The artifact with the content digests of what a run read."""

SAMPLES_FOLDER = "samples"
"""The folder of artifacts with per-sample results, one for each evaluation step."""

FIGURES_FOLDER = "figures"
"""The folder of artifacts with pictures, and their data."""


@dataclass(frozen=True)
class Figure:
    """One value of a metric, at a step of its history."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class EventRecord:
    """Holds what is recorded of one event; artifacts by their path in the run."""

    figures: Iterable[Figure] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, Any] = field(default_factory=dict)
    """Artifacts by path: each is written as the JSON of its value."""


@singledispatch
def record_of(event: Event) -> EventRecord | None:
    """Return what is recorded of an event; None of events that tell no results."""
    return None


@record_of.register
def _of_inputs(event: InputsIdentified) -> EventRecord:
    return EventRecord(contents={INPUTS_FILE: dict(event.digests)})


@record_of.register
def _of_scales(event: BlockScales) -> EventRecord:
    figures = list[Figure]()
    for tower, scales in event.scales.items():
        name = "lines/scale" if len(event.scales) == 1 else f"lines/scale/{tower}"
        for own in (name, f"{name}/{step_path(event.step)}") if event.step else (name,):
            figures += [Figure(own, scale, block) for block, scale in enumerate(scales)]
    return EventRecord(figures)


@record_of.register
def _of_summary(event: SummaryComputed) -> EventRecord:
    step = step_path(event.node)
    numbers = {name: float(value) for name, value in event.facts.items() if isinstance(value, int | float)}
    figures = _sorted({f"facts/{step}/{name}": value for name, value in numbers.items()})
    return EventRecord(figures, contents={f"facts/{mlflow_name(step)}.json": dict(event.facts)})


@record_of.register
def _of_metrics(event: MetricsComputed) -> EventRecord:
    tags = {f"metric.{name}": declaration for name, declaration in event.declared.items()}
    figures = _sorted({f"{event.step}/{name}": value for name, value in event.metrics.items()})
    return EventRecord(figures, {**tags, **({f"cached.{event.step}": "true"} if event.cached else {})})


@record_of.register
def _of_samples(event: SamplesJudged) -> EventRecord:
    content = {"step": event.step, "data": event.data, "samples": dict(event.samples)}
    return EventRecord(contents={f"{SAMPLES_FOLDER}/{mlflow_name(step_path(event.step))}.json": content})


@record_of.register
def _of_learning(event: LearningProgress) -> EventRecord:
    return EventRecord([Figure(f"learning/{step_path(event.step)}/loss", event.loss, event.done)])


@record_of.register
def _of_figure(event: FigureDrawn) -> EventRecord:
    return EventRecord(texts={f"{FIGURES_FOLDER}/{mlflow_name(path)}": text for path, text in event.texts.items()})


@record_of.register
def _of_table(event: TableComputed) -> EventRecord:
    rows = {"rows": [dict(row) for row in event.rows]}
    return EventRecord(contents={f"tables/{mlflow_name(event.name)}.json": rows})


def _sorted(figures: Mapping[str, float]) -> list[Figure]:
    """Return figures with the means of tasks first, which a store that shows only some shows then."""
    return [Figure(name, figures[name]) for name in sorted(figures, key=means_first)]
