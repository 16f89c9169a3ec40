"""Declares what a suite gives to the layers above: tasks, declared metrics, and scores of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lines_pipeline.core.units import SCORE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lines_pipeline.core.user_code.files import Code
    from lines_pipeline.ops.sample_parts import SamplePart
    from lines_pipeline.suites.models import Model
    from lines_pipeline.suites.samples import Array, Samples

Direction = Literal["higher", "lower"]
Averaging = Literal["mean", "geometric", "none"]
Role = Literal["expert", "pretrained"]
ROLES: tuple[Role, ...] = ("expert", "pretrained")
"""The models whose figures normalize: each task's own expert, and the model that all experts were tuned from."""


@dataclass(frozen=True)
class Metric:
    """Declares a figure that a suite gives for each task: its unit, the better direction, the mean of tasks."""

    name: str
    unit: str = SCORE
    """``share`` (0..1, shown in %), ``percent`` (0..100), ``nats``, ``score``, or any other word."""
    direction: Direction = "higher"
    averaging: Averaging = "mean"
    """``geometric`` for what multiplies (perplexity), ``none`` for what has no mean."""


@dataclass(frozen=True)
class Scores:
    """Holds figures by task and metric, and per-sample results of the tasks that have them."""

    values: Mapping[str, Mapping[str, float]]
    samples: Mapping[str, Samples] = field(default_factory=dict)

    def joined(self, other: Scores) -> Scores:
        """Return these scores and those of further tasks."""
        return Scores({**self.values, **other.values}, {**self.samples, **other.samples})

    def picked(self, tasks: Sequence[str]) -> Scores:
        """Return the scores of some tasks, in their order."""
        return Scores(
            {task: self.values[task] for task in tasks},
            {task: self.samples[task] for task in tasks if task in self.samples},
        )


@dataclass(frozen=True)
class Head:
    """Holds a frozen classifier over a model's features: ``logits = scale * weight * features + bias``."""

    weight: torch.Tensor
    """[classes, features]."""
    bias: torch.Tensor | None = None
    """[classes]."""
    scale: float = 1.0
    normalize: bool = False
    """Whether features are scaled to unit length first."""

    def to(self, device: str) -> Head:
        """Return the head on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of features [n, features]."""
        from torch.nn import functional

        features = functional.normalize(features, dim=-1) if self.normalize else features
        logits = features @ self.weight.T
        logits = logits if self.scale == 1.0 else self.scale * logits
        return logits if self.bias is None else logits + self.bias


class Suite(Protocol):
    """Evaluates models: has tasks with data, and declares the metrics that it gives a model on them."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks; nothing is built, downloaded or loaded for them."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics that a task may have, the most important first, before anything is loaded."""

    def evaluate(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> Scores:
        """Evaluate a model on some tasks; ``EvalError`` where it does not fit the suite.

        A declared metric may be absent where it means nothing (the top five of three classes).
        """

    def baselines(self, role: Role, tasks: Sequence[str], split: str) -> Mapping[str, Mapping[str, float]]:
        """Return figures of each task's own expert, or of the pretrained model, by task and metric, as far as known."""

    def model(self) -> nn.Module:
        """Return a module that states of this suite's models fit; ``EvalError`` where the suite has none."""

    def batches(self, task: str, split: str) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield inputs as the model takes them, and their labels."""

    def heads(self) -> Mapping[str, Head]:
        """Return the heads by task where they are frozen and outside the model; none where they are part of it."""

    def digest(self, split: str) -> str:
        """Return the digest of all that scores on a split depend on, but for the model."""

    def code(self) -> tuple[Code, ...]:
        """Return the user's Python that an evaluation runs; imports none of it. ``EvalError`` where it is missing."""

    def foreign_code(self) -> ForeignCode | None:
        """Return the code that an evaluation runs and that may do anything; None where there is none."""

    def check(self, tasks: Sequence[str], split: str) -> tuple[str, ...]:
        """Check all that needs neither weights nor data; return a message for each file that is missing.

        Raises ``EvalError`` for what no file could mend, such as a split that a task does not have.
        """


@dataclass(frozen=True)
class Answers:
    """Holds what a classifier answers to the samples of one task, in their order."""

    logits: torch.Tensor
    """[n, classes], on the CPU; of an ensemble in float64."""
    labels: torch.Tensor
    """int64 [n], in 0..classes-1."""
    clusters: Array | None = None
    """int32 [n], as in ``Samples``."""


@runtime_checkable
class ClassifierSuite(Protocol):
    """Declares what a suite has besides, where its scores are made of logits: so it can judge ensembles, too."""

    def answers(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> Mapping[str, Answers]:
        """Return a model's answers by task; ``EvalError`` where it does not fit the suite."""

    def judged(self, answers: Mapping[str, Answers]) -> Scores:
        """Return the scores of answers by task, as ``evaluate`` gives them."""


@runtime_checkable
class DivisibleSuite(Protocol):
    """Declares what a suite has besides, where it can judge models by a part of each task's samples."""

    def part(self, part: SamplePart) -> Suite:
        """Return the suite with these samples of every task alone; its digest may stay the same."""


@runtime_checkable
class RecordingSuite(Protocol):
    """Declares what a suite has besides, where its file may record its baselines."""

    @property
    def records_baselines(self) -> bool:
        """Return whether ``baselines`` reads its figures from the file alone, and measures none."""


@dataclass(frozen=True)
class ForeignCode:
    """Describes what a suite runs beside this package: Python of the user's own, or what could unpickle files."""

    what: str
    untrusted: str
    """Why it may not run here and what to do, an empty text where it may."""
