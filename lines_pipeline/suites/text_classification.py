"""Evaluates the kind ``text-classification``: a transformer reads texts; heads are frozen, or part of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.suites.base import ForeignCode, Head, Metric, Role, Scores
from lines_pipeline.suites.class_figures import TEXT_METRICS, class_figures
from lines_pipeline.suites.file_suite import FileSuite
from lines_pipeline.suites.heads import head_in
from lines_pipeline.suites.label_heads import LabelEmbedder
from lines_pipeline.suites.labelled_tensors import DATASETS
from lines_pipeline.suites.labelled_texts import LabelledTexts, hub_rows, labelled_texts, read_rows
from lines_pipeline.suites.model_factory import foreign_code
from lines_pipeline.suites.models import Model
from lines_pipeline.suites.samples import Samples
from lines_pipeline.suites.suite_files import SuiteDocument
from lines_pipeline.suites.text_base import require_transformers
from lines_pipeline.suites.text_classification_file import TextClassificationFile
from lines_pipeline.suites.text_fitting import fitting, task_error
from lines_pipeline.suites.text_reader import BATCH_SIZE, TextReader
from lines_pipeline.suites.text_suite_model import TextSuiteModel


@dataclass(frozen=True)
class TextClassificationSuite(FileSuite[TextClassificationFile]):
    """Evaluates models by a suite file that has been read."""

    only: SamplePart | None = field(default=None, kw_only=True)
    """The samples that models are judged by; None for all."""

    @classmethod
    def read(cls, document: SuiteDocument) -> TextClassificationSuite:
        """Return the suite in a file."""
        return cls(document, fitting(document))

    def part(self, part: SamplePart) -> TextClassificationSuite:
        """Return the suite with some samples of every task alone."""
        return replace(self, only=part)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics, accuracy first."""
        return TEXT_METRICS

    def check(self, tasks: Sequence[str], split: str) -> tuple[str, ...]:
        """Return a message for each missing local file; ``EvalError`` where a split or transformers is missing."""
        require_transformers()
        files = [(task, head) for task in tasks if (head := self.content.tasks[task].head) is not None]
        missing = self.missing([*files, *((task, self._source(task, split)) for task in tasks)])
        if not self._model.has_local_base:
            return missing
        embeds = any(self._embedded(task) for task in self.tasks)
        return (*(f"{self.path}: base: {message}" for message in self._model.base.missing(weights=embeds)), *missing)

    def digest(self, split: str) -> str:
        """Return the digest of the file's content, and of the local data, heads, base and Python that it names."""
        tasks = self.content.tasks.values()
        files = [self.identity(source) for task in tasks for source in (task.head or "", task.data.get(split, ""))]
        base = self.content.model.base
        folder = self._model.base.identity if self._model.has_local_base else base
        content = self.content.model_dump(mode="json", exclude={"tasks": {"__all__": {"expert", "pretrained"}}})
        return content_key([content, split, files, folder, *(code.digest() for code in self.code())])

    def baselines(self, role: Role, tasks: Sequence[str], split: str) -> dict[str, dict[str, float]]:
        """Return the figures that the file records."""
        return {task: self.content.tasks[task].baseline(role, split) for task in tasks}

    @torch.no_grad()
    def evaluate(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> Scores:
        """Evaluate the answers of largest logit; ``EvalError`` where the model does not fit."""
        module = self._model.loaded(model, device)
        values, samples = dict[str, dict[str, float]](), dict[str, Samples]()
        for task in tasks:
            head = self._head(task)
            data = self._data(task, split, head)
            width = len(self._names(task)) if head is None else head.weight.shape[1]
            reader = TextReader(module, self._model.tokenizer, self.path, task, self._model.code)
            outputs = reader.outputs(data, width, device)
            values[task], samples[task] = class_figures(
                outputs if head is None else head.logits(outputs), data.labels, data.clusters
            )
        return Scores(values, samples)

    def model(self) -> nn.Module:
        """Return a new module: from tokens to features, or to logits where the head is part of the model."""
        return self._model.module()

    def batches(self, task: str, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield tokens [n, inputs, length] and labels, in the file's order."""
        data = self._data(task, split, self._head(task))
        for start in range(0, len(data), BATCH_SIZE):
            batch = data.picked(range(start, min(start + BATCH_SIZE, len(data))))
            yield self._model.tokenizer.tokens(batch.texts, batch.pairs), batch.labels

    def heads(self) -> dict[str, Head]:
        """Return the frozen heads of all tasks; none where they are part of the model."""
        return {task: head for task in self.tasks if (head := self._head(task)) is not None}

    def code(self) -> tuple[Code, ...]:
        """Return the Python of the user's that makes the model, if there is any."""
        return () if self._model.code is None else (self._model.code,)

    def foreign_code(self) -> ForeignCode | None:
        """Return the user's Python; models of transformers run none but that library's."""
        return foreign_code(self.path, self.code(), None)

    @cached_property
    def _model(self) -> TextSuiteModel:
        return TextSuiteModel(self)

    def _data(self, task: str, split: str, head: Head | None) -> LabelledTexts:
        source, section = self._source(task, split), self.content.tasks[task]
        rows = hub_rows(source) if source.startswith(DATASETS) else read_rows(self.local(source))
        classes = len(self._names(task)) if head is None else len(head.weight)
        texts = labelled_texts(rows, section.columns or self.content.columns, self._names(task), classes)
        if not len(texts):
            raise EvalError(f"{self.path}: task '{task}': {source} has no texts to evaluate on")
        if self.only is None:
            return texts
        return texts.picked(self.only.numbers(task, len(texts), texts.clusters).tolist())

    def _names(self, task: str) -> tuple[str, ...]:
        """Return the names of a task's classes; none where they are numbers."""
        named = self.content.tasks[task].names
        if not self.content.model.classifies:
            return named
        own = self._model.base.class_names()
        if named and len(named) != len(own):
            raise task_error(self.document, task, f"{len(named)} labels, the model has {len(own)} classes")
        return named or own

    def _head(self, task: str) -> Head | None:
        """Return the frozen head of a task, on the CPU; None where it is part of the model."""
        content, section = self.content, self.content.tasks[task]
        if content.model.classifies:
            return None
        head = head_in(self.tensors(section.head), f"{self.path}: head of '{task}'") if section.head else None
        if head is None:
            head = Head(self._rows[task])
        elif section.names and len(section.names) != len(head.weight):
            count, rows = len(section.names), len(head.weight)
            raise task_error(self.document, task, f"{count} labels, the head has {rows} classes")
        return replace(head, scale=content.logit_scale, normalize=content.normalize_features)

    @property
    def _rows(self) -> dict[str, torch.Tensor]:
        """Return the rows of the heads that are made of label names."""
        model, tasks = self.content.model, [task for task in self.tasks if self._embedded(task)]
        code = [code_read.digest() for code_read in self.code()]
        key = content_key(
            [model.model_dump(mode="json"), self._model.base.identity, str(self._model.base.folder), code]
        )
        texts = tuple(self.content.tasks[task].texts(self.content.template) for task in tasks)
        embedder = LabelEmbedder(key, lambda texts: self._model.tokenizer.tokens(texts), self._model.with_base_weights)
        return dict(zip(tasks, embedder.rows(texts), strict=True))

    def _embedded(self, task: str) -> bool:
        return not self.content.model.classifies and self.content.tasks[task].head is None

    def _source(self, task: str, split: str) -> str:
        return self.data_of(task, self.content.tasks[task].data, split)
