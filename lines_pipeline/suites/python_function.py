"""Evaluates the kind ``python``: a function of the user's own gives the figures that the file declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field, field_validator
from torch import nn

from lines_pipeline.core.errors import EvalError, did_you_mean
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.units import SCORE
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.suites.base import Averaging, Direction, ForeignCode, Head, Metric, Role, Scores
from lines_pipeline.suites.factories import check_function
from lines_pipeline.suites.file_suite import FileSuite
from lines_pipeline.suites.model_factory import factory_code, foreign_code, loaded, make_model, named_code
from lines_pipeline.suites.models import Model, StoredModel
from lines_pipeline.suites.samples import Array, Samples
from lines_pipeline.suites.suite_files import Figures, FilePath, ModelFactory, Section, SuiteDocument, named_tasks
from lines_pipeline.suites.user_code import call

_METRIC = re.compile(r"[A-Za-z_][\w-]{0,99}", re.ASCII)
_TAKEN = ("mean_", "worst_", "normalized_", "target_", "control_")
CLUSTERS = "clusters"
"""The key under which a function may tell which samples belong together."""


class MetricFile(Section):
    """Declares the fields of one metric."""

    unit: str = Field(SCORE, max_length=40)
    direction: Direction = "higher"
    averaging: Averaging = "mean"


class TaskFile(Section):
    """Declares the fields of a task: figures that normalize, by split and metric."""

    expert: Figures = {}
    pretrained: Figures = {}


class FunctionFile(Section):
    """Declares the top level of the file."""

    function: str
    metrics: dict[str, MetricFile] = Field(min_length=1)
    tasks: Annotated[list[str] | dict[str, TaskFile], AfterValidator(named_tasks)] = Field(min_length=1)
    model: ModelFactory | None = None
    files: list[FilePath] = []
    """The files that the function reads: scores are made again where these change."""

    @field_validator("function")
    @classmethod
    def _callable(cls, value: str) -> str:
        check_function(value)
        return value

    @field_validator("metrics")
    @classmethod
    def _named(cls, value: dict[str, MetricFile]) -> dict[str, MetricFile]:
        for name in value:
            if not _METRIC.fullmatch(name) or name.startswith(_TAKEN) or name == CLUSTERS:
                raise ValueError(
                    f"'{name}' is no name for a metric: expected letters, digits, '-' and '_', not beginning with "
                    f"{', '.join(_TAKEN)}, and not '{CLUSTERS}'"
                )
        return value


@dataclass(frozen=True)
class FunctionSuite(FileSuite[FunctionFile]):
    """Evaluates models by a suite file that has been read."""

    @classmethod
    def read(cls, document: SuiteDocument) -> FunctionSuite:
        """Return the suite in a file."""
        suite = cls(document, document.read_as(FunctionFile))
        suite._require_declared()
        return suite

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics that the file declares."""
        return tuple(Metric(name, m.unit, m.direction, m.averaging) for name, m in self.content.metrics.items())

    def check(self, tasks: Sequence[str], split: str) -> tuple[str, ...]:
        """Return a message for each of ``files`` that is not there."""
        missing = [file for file in self.content.files if "://" not in file and self.identity(file) is None]
        return tuple(f"{self.path}: {file}: no such file" for file in missing)

    def digest(self, split: str) -> str:
        """Return the digest of the file's content, of the Python that it names, and of ``files``."""
        content = self.content.model_dump(mode="json")
        files = [self.identity(file) for file in self.content.files]
        return content_key([content, split, files, *(code.digest() for code in self.code())])

    def baselines(self, role: Role, tasks: Sequence[str], split: str) -> dict[str, dict[str, float]]:
        """Return the figures that the file records."""
        known = self.content.tasks
        if not isinstance(known, dict):
            return {}
        by_task = {task: known[task].expert if role == "expert" else known[task].pretrained for task in tasks}
        return {task: figures.get(split, {}) for task, figures in by_task.items()}

    @torch.no_grad()
    def evaluate(self, model: Model, tasks: Sequence[str], split: str, *, device: str = "cpu") -> Scores:
        """Call the function once a task: with the module where the file names a factory, else with a model folder."""
        code, values, samples = self._function, dict[str, dict[str, float]](), dict[str, Samples]()
        with ExitStack() as stack:
            given = self._given(model, device, stack)
            for task in tasks:
                result = call(code, self.path, f"task '{task}': ", given, task, split)
                values[task], per_sample = self._read(result, f"{self.path}: task '{task}': {code.what} {code.text}")
                if per_sample.values:
                    samples[task] = per_sample
        return Scores(values, samples)

    def model(self) -> nn.Module:
        """Return a new module of the file's factory."""
        if self.content.model is None:
            raise EvalError(f"{self.path}: names no model factory, so there is no module to take")
        return make_model(self.path, self.content.model, self._factory)[0]

    def batches(self, task: str, split: str) -> Iterator[tuple[Any, torch.Tensor]]:
        """Raise ``EvalError``: only the function knows the data."""
        raise EvalError(f"{self.path}: a suite of the kind 'python' has no batches: only its function knows the data")

    def heads(self) -> Mapping[str, Head]:
        """Return no heads: this package knows of none."""
        return {}

    def code(self) -> tuple[Code, ...]:
        """Return the function, and the model's factory where that is the user's own."""
        return (self._function,) if self._factory is None else (self._function, self._factory)

    def foreign_code(self) -> ForeignCode | None:
        """Return the user's Python."""
        return foreign_code(self.path, self.code(), self.content.model)

    @cached_property
    def _function(self) -> Code:
        return named_code(self.document, ("function",), self.content.function, "function")

    @cached_property
    def _factory(self) -> Code | None:
        return None if self.content.model is None else factory_code(self.document, self.content.model)

    def _require_declared(self) -> None:
        """Raise ``EvalError`` where the file records figures of metrics that it does not declare."""
        known = self.content.tasks
        for task, recorded in known.items() if isinstance(known, dict) else ():
            for role, splits in (("expert", recorded.expert), ("pretrained", recorded.pretrained)):
                for split, figures in splits.items():
                    for name in figures:
                        if name not in self.content.metrics:
                            near = did_you_mean(name, self.content.metrics)
                            place = ("tasks", task, role, split, name)
                            raise self.document.error(place, f"'{name}' is not declared in 'metrics'{near}")

    def _given(self, model: Model, device: str, stack: ExitStack) -> Any:
        """Return what the function is called with."""
        if isinstance(model, nn.Module):
            return model.eval().to(device)
        if self.content.model is not None:
            module = self.model()
            return loaded(self.path, self.content.model.factory, module, model, self._factory, device)
        if isinstance(model, StoredModel):
            return stack.enter_context(model.folder())
        raise EvalError(f"{self.path}: names no model factory, and the model is not in a file")

    def _read(self, result: Any, where: str) -> tuple[dict[str, float], Samples]:
        """Return the figures that a function gave: a number, an array of one figure a sample, or a dict of such."""
        declared = self.content.metrics
        if not isinstance(result, Mapping):
            if len(declared) > 1:
                raise EvalError(f"{where} gave a {type(result).__name__}, expected a dict with {', '.join(declared)}")
            result = {next(iter(declared)): result}
        clusters = result.get(CLUSTERS)
        for name in result:
            if name != CLUSTERS and name not in declared:
                raise EvalError(f"{where} gave '{name}', which the file does not declare{did_you_mean(name, declared)}")
        if missing := [name for name in declared if name not in result]:
            raise EvalError(f"{where} gave no '{missing[0]}', which the file declares")
        arrays = {name: _array(result[name], f"{where}: '{name}'") for name in declared}
        values = {name: float(np.mean(array, dtype=np.float64)) for name, array in arrays.items()}
        samples = {name: array for name, array in arrays.items() if array.ndim == 1}
        if len({len(array) for array in samples.values()}) > 1:
            raise EvalError(
                f"{where} gave {', '.join(f'{len(a)} of {n}' for n, a in samples.items())}: not one a sample"
            )
        return values, Samples(samples, _clusters(clusters, samples, where) if samples else None)


def _array(value: Any, where: str) -> Array:
    """Return one figure (an array without dimensions), or one a sample."""
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if array.dtype.kind not in "bifu" or array.ndim > 1 or array.size == 0:
        shape = f"an array of {array.dtype} with shape {array.shape}" if array.ndim else f"a {type(value).__name__}"
        raise EvalError(f"{where} is {shape}, expected a number, or one a sample")
    return array if array.dtype.kind == "b" else array.astype(np.float64 if array.ndim == 0 else np.float32)


def _clusters(value: Any, samples: Mapping[str, Array], where: str) -> Array | None:
    if value is None:
        return None
    clusters = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    if clusters.dtype.kind not in "iu" or clusters.shape != next(iter(samples.values())).shape:
        raise EvalError(
            f"{where} gave clusters of {clusters.dtype} with shape {clusters.shape}, expected one number a sample"
        )
    return clusters.astype(np.int32)
