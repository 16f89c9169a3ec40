"""What happens in a run, as told to sinks (console, MLflow, JSON lines); only the driver process emits them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lines_pipeline.core.printable import printable_message
from lines_pipeline.core.secrets import Secrets


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins: texts become artifacts, ``params`` and ``tags`` are logged as they are."""

    name: str
    experiment: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    texts: Mapping[str, str]
    """Artifact name (``recipe.yaml``, ``plan.txt``, ``graph.svg``, ``layers.json`` ...) to content."""
    experiment_id: str = ""
    """The experiment, where it was not given by name."""
    run_id: str = ""
    """A run of the store to record into, in place of a new one."""


@dataclass(frozen=True)
class Note(Event):
    """What the user should know of inputs or results and might not expect; ``warning`` where results may be wrong."""

    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{'warning' if self.warning else 'note'}: {printable_message(self.text)}"


@dataclass(frozen=True)
class InputsIdentified(Event):
    """The content digests of what the run read, by step."""

    digests: Mapping[str, str]


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage of the plan begins to read the data."""

    name: str
    bytes_total: int


@dataclass(frozen=True)
class StageProgress(Event):
    """A task of the running stage is done; ``bytes_read`` counts from the start of the stage."""

    bytes_read: int


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage of the plan ended; its time, and the bytes that it read and wrote."""

    name: str
    seconds: float
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class ZooProgress(Event):
    """The embedded zoo builds an expert: ``done`` of ``total`` optimiser steps over all experts to build."""

    done: int
    total: int
    expert: str


@dataclass(frozen=True)
class LearningProgress(Event):
    """A step learns from data: ``done`` of ``total`` optimiser steps, and the loss of the last one."""

    step: str
    done: int
    total: int
    loss: float


@dataclass(frozen=True)
class BlockScales(Event):
    """The scale that a ``lines-scale`` step gives each block (index from 0) of each tower."""

    step: str
    scales: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class SummaryComputed(Event):
    """Scalars that a merge computed on the way, named as in the published reference code."""

    node: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class MetricsComputed(Event):
    """An evaluation's metrics; ``cached`` when they were remembered from an earlier run."""

    step: str
    metrics: Mapping[str, float]
    cached: bool
    units: Mapping[str, str] = field(default_factory=dict)
    """``share``, ``nats``, ``score`` ... by metric."""
    declared: Mapping[str, str] = field(default_factory=dict)
    """What the suite says of its own metrics, the most important first: ``loss`` to ``nats, lower is better``."""


@dataclass(frozen=True)
class SamplesJudged(Event):
    """What an evaluation found of every sample; ``data`` is equal where the samples are the same ones."""

    step: str
    data: str
    samples: Mapping[str, Any]
    """By task, packed as ``suites.samples`` packs them."""


@dataclass(frozen=True)
class ParamsChosen(Event):
    """Values a search chose (``scaled.beta``), to replace what the recipe had."""

    params: Mapping[str, Any]
    objective: float
    wholes: Mapping[str, Any] = field(default_factory=dict)
    """The parameters of which entries were chosen (``scaled.table`` of ``scaled.table.2``), as they are then."""


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial of ``tune`` (or a point of a sweep) begins: a nested child run."""

    number: int
    total: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial ended; ``cached`` when its scores were remembered from an earlier run."""

    number: int
    objective: float
    metrics: Mapping[str, float]
    """``node/metric`` to value."""
    cached: bool = False
    share: float = 1.0
    """The share of the samples that it was judged by last: less than 1 of a trial that was stopped."""


@dataclass(frozen=True)
class FileWritten(Event):
    """A node's files are complete (URLs: in an object store); ``reused`` when they were already there with equal bytes.

    ``path`` is what opens them: the one file, the index of shards, or the model folder.
    """

    node: str
    path: Path | str
    nbytes: int
    reused: bool = False
    files: tuple[Path | str, ...] = ()
    """All files of the node: shards, index, and what lies beside the weights of a model folder."""


@dataclass(frozen=True)
class FigureDrawn(Event):
    """A figure is drawn: texts to keep as artifacts, by path (the picture as SVG, its data as CSV)."""

    step: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class TableComputed(Event):
    """A small table (per-tensor figures, cache hits) to keep as one JSON artifact."""

    name: str
    rows: tuple[Mapping[str, Any], ...] = field(default=())


@dataclass(frozen=True)
class RunFinished(Event):
    """The run ended: ``status`` is FINISHED, FAILED or KILLED; ``error`` its message."""

    status: str
    seconds: float
    error: str = ""


Sink = Callable[[Event], None]
"""A receiver of events."""


def broadcast(*sinks: Sink) -> Sink:
    """Return a sink that passes every event on to all of ``sinks``, in order."""

    def emit(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return emit


def hidden_from(secrets: Secrets, sink: Sink) -> Sink:
    """Return a sink that passes events on with secrets by name only; ``RunStarted`` has them so already."""

    def emit(event: Event) -> None:
        sink(event if isinstance(event, RunStarted) else secrets.hidden(event))

    return emit
