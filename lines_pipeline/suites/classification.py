"""Evaluates the kind ``classification``: a model makes features of tensors; each task has a head and data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.suites.base import Answers, ForeignCode, Head, Metric, Role, Scores
from lines_pipeline.suites.classification_file import ClassificationFile
from lines_pipeline.suites.file_suite import FileSuite
from lines_pipeline.suites.heads import head_in
from lines_pipeline.suites.held_data import HeldData
from lines_pipeline.suites.image_reader import Batch, ImageReader
from lines_pipeline.suites.labelled_tensors import DATASETS, LabelledTensors, hub_batches
from lines_pipeline.suites.logit_scores import CLASSIFICATION_METRICS, sample_figures, scores_of_answers, task_scores
from lines_pipeline.suites.model_factory import factory_code, foreign_code, loaded, make_model
from lines_pipeline.suites.models import Model
from lines_pipeline.suites.samples import Array
from lines_pipeline.suites.suite_files import SuiteDocument

BATCH_SIZE = 128


@dataclass(frozen=True)
class ClassificationSuite(FileSuite[ClassificationFile]):
    """Evaluates models by a suite file that has been read."""

    held: HeldData = field(default_factory=HeldData, compare=False, repr=False)
    only: SamplePart | None = None
    """The samples that models are judged by; None for all."""

    @classmethod
    def read(cls, document: SuiteDocument) -> ClassificationSuite:
        """Return the suite in a file."""
        return cls(document, document.read_as(ClassificationFile))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics, accuracy first; the top five where a task has more than five classes."""
        return CLASSIFICATION_METRICS

    def check(self, tasks: Sequence[str], split: str) -> tuple[str, ...]:
        """Return a message for each missing local file; ``EvalError`` where a task has no data for the split."""
        named = [(task, file) for task in tasks for file in (self.content.tasks[task].head, self._source(task, split))]
        return self.missing(named)

    def digest(self, split: str) -> str:
        """Return the digest of the file's content, and of the local data, heads and Python that it names."""
        tasks = self.content.tasks.values()
        files = [self.identity(source) for task in tasks for source in (task.head, task.data.get(split, ""))]
        content = self.content.model_dump(mode="json")
        return content_key([content, split, files, *(code.digest() for code in self.code())])

    def baselines(self, role: Role, tasks: Sequence[str], split: str) -> dict[str, dict[str, float]]:
        """Return the figures that the file records."""
        return {task: self.content.tasks[task].baseline(role, split) for task in tasks}

    @torch.no_grad()
    def evaluate(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> Scores:
        """Evaluate the answers of largest logit; ``EvalError`` where the model does not fit."""
        values, samples = dict[str, dict[str, float]](), {}
        for task, batches, clusters in self._answered(model, tasks, split, device):
            values[task], samples[task] = task_scores((sample_figures(*batch) for batch in batches), clusters)
        return Scores(values, samples)

    @torch.no_grad()
    def answers(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> dict[str, Answers]:
        """Return a model's answers by task; ``EvalError`` where it does not fit."""
        answers = {}
        for task, batches, clusters in self._answered(model, tasks, split, device):
            parts = [(logits.cpu(), labels) for logits, labels in batches]
            logits, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            answers[task] = Answers(logits, labels, clusters)
        return answers

    def judged(self, answers: Mapping[str, Answers]) -> Scores:
        """Return the scores of answers by task."""
        return scores_of_answers(answers)

    def part(self, part: SamplePart) -> ClassificationSuite:
        """Return the suite with some samples of every task alone; both hold the same data."""
        return replace(self, only=part)

    def hold_data(self, room: int) -> None:
        """Hold up to so many bytes of data between evaluations."""
        self.held.room = room

    def model(self) -> nn.Module:
        """Return a new module, with the weights that its factory gives it."""
        return make_model(self.path, self.content.model, self._code)[0]

    def batches(self, task: str, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels, in the file's order."""
        source = self._data(task, split)
        return self._batches(task, source, None if isinstance(source, LabelledTensors) else self._made[1])

    def heads(self) -> dict[str, Head]:
        """Return the frozen heads of all tasks."""
        return {task: self._head(task) for task in self.tasks}

    def code(self) -> tuple[Code, ...]:
        """Return the Python of the user's that makes the model, if there is any."""
        return () if self._code is None else (self._code,)

    def foreign_code(self) -> ForeignCode | None:
        """Return the user's Python, or a model of open_clip with arguments that may open files of pickles."""
        return foreign_code(self.path, self.code(), self.content.model)

    @cached_property
    def _code(self) -> Code | None:
        return factory_code(self.document, self.content.model)

    @property
    def _made(self) -> tuple[nn.Module, Any]:
        return make_model(self.path, self.content.model, self._code)

    def _answered(
        self, model: Model, tasks: Sequence[str], split: str, device: str
    ) -> Iterator[tuple[str, Iterator[Batch], Array | None]]:
        """Yield each task, logits and labels of its batches, and its clusters."""
        module, transform = self._made
        ready = loaded(self.path, self.content.model.factory, module, model, self._code, device)
        for task in tasks:
            source = self._data(task, split)
            clusters = source.clusters if isinstance(source, LabelledTensors) else None
            reader = ImageReader(ready, self._head(task, device), self.path, task, self._code)
            yield task, reader.logits(self._batches(task, source, transform), device), clusters

    def _head(self, task: str, device: str = "cpu") -> Head:
        head = head_in(self.tensors(self.content.tasks[task].head), f"{self.path}: head of '{task}'")
        content = self.content
        return replace(head, scale=content.logit_scale, normalize=content.normalize_features).to(device)

    def _data(self, task: str, split: str) -> LabelledTensors | str:
        source = self._source(task, split)
        if source.startswith(DATASETS):
            return source
        where = f"{self.path}: task '{task}'"
        data = self.held.data(
            source, lambda: LabelledTensors.of(self.tensors(source), source, where), lambda read: read.nbytes
        )
        return data if self.only is None else data.picked(self.only.numbers(task, len(data.labels), data.clusters))

    def _batches(self, task: str, source: LabelledTensors | str, transform: Any) -> Iterator[Batch]:
        if isinstance(source, LabelledTensors):
            return source.batches(BATCH_SIZE)
        only = self.only
        chosen = None if only is None else lambda count: only.numbers(task, count)
        key = source if only is None else (source, only)
        return self.held.batches(key, lambda: hub_batches(source, transform, BATCH_SIZE, chosen))

    def _source(self, task: str, split: str) -> str:
        return self.data_of(task, self.content.tasks[task].data, split)
