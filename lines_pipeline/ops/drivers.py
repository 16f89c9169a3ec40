"""The driver side of the op contract: what finds a value or metrics above the executor, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lines_pipeline.core.events import Event
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.explanations import Summary
from lines_pipeline.ops.roles import Ids, OpParams, StepRoles, SuiteUse

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Measured:
    """A value that a driver measures: tensors by name, as its step's schema has them, in the compute type."""

    content: str
    """Identity of the data that it is measured on: the value is remembered by that, the parameters and the inputs."""
    measure: Callable[[], Mapping[str, torch.Tensor]]
    """Makes the tensors, all names of tied ones among them; called where no such value is remembered."""
    summary: Callable[[], Summary] = dict
    """Figures worth telling the user of what ``measure`` did: asked for after it, and remembered with the value."""
    tell: Callable[[Summary], Iterable[Event]] = lambda summary: ()
    """What sinks are told of the value, from its summary, measured now or remembered."""
    tells_tensors: bool = False
    """Whether only what is measured tells which tensors there are (``SchemaContext.measured``)."""


@dataclass(frozen=True)
class Variant:
    """An op with parameters and inputs: what a driver puts in the place of its step, or tries there."""

    op: StepRoles[Any]
    """An op. ``ops.base`` defines these in terms of drivers: its ``op_of`` gives this as one."""
    params: OpParams
    inputs: Ids
    measured: Measured | None = None
    """The value, where the driver measures it and no ``apply`` computes it."""


@dataclass(frozen=True)
class Evaluated:
    """The metrics of a step that gives metrics: the step stays in the graph, and a suite evaluates ``use`` for it.

    The driver evaluates nothing: layers above evaluate the models of all steps together, and remember the scores.
    """

    use: SuiteUse
    """What is evaluated: a model or an ensemble, the part of a suite, and the steps whose scores normalize."""


@dataclass(frozen=True)
class MeasuredMetrics:
    """The metrics of a step whose driver measures them itself: the step stays in the graph."""

    content: str
    """Identity of the data that they are measured on: they are remembered by that, the parameters and the inputs."""
    measure: Callable[[], Mapping[str, float]]
    """Gives the metrics by name; called once all models of the run are made, where none are remembered."""
    direction: Literal["higher", "lower"] = "higher"
    """Tells which value of a metric is better, the higher or the lower one."""
    unit: str = ""


class FrozenHead(Protocol):
    """A classifier of a task over the features that a model gives."""

    def to(self, device: str) -> FrozenHead:
        """Return a copy of the head with its tensors on ``device``."""

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of features [n, features]."""


class TaskData(Protocol):
    """Gives a driver what it may ask of a suite: a module, the data of tasks, and the heads outside the module."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks, in the suite's order."""

    def digest(self, split: str) -> str:
        """Return the content identity of all that is measured on a split."""

    def model(self) -> nn.Module:
        """Return a module that states of this suite's models fit."""

    def batches(self, task: str, split: str) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield inputs as the model takes them, and their labels, in the split's order."""

    def heads(self) -> Mapping[str, FrozenHead]:
        """Return heads by task where they are frozen and outside the model; none where they are part of it."""

    def baselines(
        self, role: Literal["expert", "pretrained"], tasks: Sequence[str], split: str
    ) -> Mapping[str, Mapping[str, float]]:
        """Return figures of each task's expert, or of the pretrained model, by task and metric, as far as known."""


class DriverContext(Protocol):
    """Gives a driver what it may ask of the layers above; what it measures is cached for it (``Measured``)."""

    @property
    def step(self) -> str:
        """Return the id of the step that is carried out."""

    @property
    def node(self) -> str:
        """Return its node, for messages."""

    @property
    def device(self) -> str:
        """Return the device that computes: ``cpu`` or ``cuda``."""

    def materialise(self, step: str) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a step's value in memory, tied ones under all names; floating-point ones as float32."""

    def mapped(self, steps: Sequence[str]) -> AbstractContextManager[tuple[Mapping[str, torch.Tensor], ...]]:
        """Open the tensors of steps' values by name, floating-point ones as float32: each is read when it is taken.

        They are memory-mapped where that is what their files hold, and gone when the context ends.
        """

    def config(self, step: str) -> Mapping[str, Any]:
        """Return the configuration (``config.json``) of the model that a step's value follows; empty without one."""

    def layers(self) -> LayerMap | None:
        """Return the layer map of the step that is carried out, where its op has a pattern for one."""

    def scratch(self) -> AbstractContextManager[Path]:
        """Open a folder on the cache's disk, which goes with all that is in it."""

    def suite(self, uri: str) -> TaskData:
        """Return the suite that a recipe names."""

    def evaluate(self, models: Mapping[str, Variant], use: SuiteUse) -> dict[str, dict[str, float]]:
        """Return the metrics of each of ``models``, by name, on the part of a suite that ``use`` names without a model.

        The models are made together, evaluated side by side, and dropped again; their scores are remembered.
        """

    def higher_is_better(self, metric: str) -> bool:
        """Return whether a model is better where the metric, of the suite that the step names, is higher."""

    def emit(self, event: Event) -> None:
        """Send an event to the sinks of the run."""


Driver = Callable[[Ids, DriverContext], Variant | Evaluated | MeasuredMetrics]
"""Finds what takes the step's place, from its inputs; of a step that gives metrics, what these are made of."""
