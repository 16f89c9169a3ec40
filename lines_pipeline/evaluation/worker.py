"""Evaluates models and ensembles on workers: sends names of files and suites; a worker reads the files itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lines_pipeline.core.errors import EvalError
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.dask_worker import require_same_files
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.ops.roles import Combination
from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.planner.memory import BASE_BYTES
from lines_pipeline.suites.base import Scores, Suite
from lines_pipeline.suites.dividing import require_divisible
from lines_pipeline.suites.ensembles import ensemble_scores, require_classifier
from lines_pipeline.suites.held_data import HoldsData
from lines_pipeline.suites.models import StoredModel
from lines_pipeline.suites.opening import open_suite


@dataclass(frozen=True)
class ModelFile:
    """Names a model's file, and a file of the checkpoint whose configuration and tokenizer it follows."""

    weights: SourceFile
    followed: Path | None = None

    @property
    def stored(self) -> StoredModel:
        """Return the model as suites take it."""
        return StoredModel(Path(self.weights.path), self.followed)


@dataclass(frozen=True)
class Evaluation:
    """Names files of models and the suite to evaluate them on: its URI from ``folder``, and its digest for the driver.

    Several models are one ensemble.
    """

    node: str
    models: tuple[ModelFile, ...]
    suite: str
    folder: Path
    digest: str
    tasks: tuple[str, ...]
    split: str
    device: str
    combine: Combination = "probabilities"
    part: SamplePart | None = None
    """The samples that are judged; None for all."""


@dataclass(frozen=True)
class EvaluationGroup:
    """Evaluations on the same data, which one process carries out one after the other, and the cap on its memory."""

    evaluations: tuple[Evaluation, ...]
    memory: int | None = None


def evaluate_all(scheduler: Scheduler, evaluations: Sequence[Evaluation], memory: int | None = None) -> list[Scores]:
    """Return scores by task. Where there are more workers than evaluations, each is dealt out by its tasks.

    Each worker gets evaluations on the same data together, and reads the data once where its memory has room.
    """
    parts = max(scheduler.calls_at_once // max(len(evaluations), 1), 1)
    dealt = [(number, part) for number, evaluation in enumerate(evaluations) for part in _dealt(evaluation, parts)]
    groups = _grouped([part for _, part in dealt], scheduler.calls_at_once)
    asked = [EvaluationGroup(tuple(dealt[place][1] for place in group), memory) for group in groups]
    results = scheduler.call(evaluate_together, asked)
    scored = {
        place: scores
        for group, group_scores in zip(groups, results, strict=True)
        for place, scores in zip(group, group_scores, strict=True)
    }
    joined = [Scores({}) for _ in evaluations]
    for place, (number, _) in enumerate(dealt):
        joined[number] = joined[number].joined(scored[place])
    return [scores.picked(evaluation.tasks) for evaluation, scores in zip(evaluations, joined, strict=True)]


def _dealt(evaluation: Evaluation, parts: int) -> list[Evaluation]:
    count = min(parts, len(evaluation.tasks))
    return [replace(evaluation, tasks=evaluation.tasks[start::count]) for start in range(count)]


def _grouped(parts: Sequence[Evaluation], workers: int) -> list[list[int]]:
    """Return which parts go together, by their places: those on the same data, as many groups as there are workers."""
    alike: dict[object, list[int]] = {}
    for place, part in enumerate(parts):
        alike.setdefault((part.suite, part.folder, part.digest, part.split, part.device), []).append(place)
    groups = []
    for places in alike.values():
        count = min(workers, len(places))
        groups += [places[start::count] for start in range(count)]
    return groups


def evaluate_together(group: EvaluationGroup) -> list[Scores]:
    """Evaluate in this process; return scores by task of each. Data of several evaluations are held meanwhile."""
    first = group.evaluations[0]
    suite = open_suite(first.suite, first.folder)
    if len(group.evaluations) > 1 and isinstance(suite, HoldsData):
        suite.hold_data(_room(group.memory))
    return [evaluate(evaluation, suite) for evaluation in group.evaluations]


def _room(memory: int | None) -> int:
    """Return how many bytes of data may be held: a quarter of the memory that is free, or that the cap leaves."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except ValueError:  # macOS does not tell what is free
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    available = free if memory is None else min(free, memory - BASE_BYTES)
    return max(available, 0) // 4


def evaluate(evaluation: Evaluation, suite: Suite | None = None) -> Scores:
    """Evaluate in this process; return scores by task. Raises ``EvalError`` naming the node.

    ``suite`` is that of the evaluation, where it is open already.
    """
    require_same_files([model.weights for model in evaluation.models])
    device = resolve_device(evaluation.device)
    try:
        suite = suite or open_suite(evaluation.suite, evaluation.folder)
        if suite.digest(evaluation.split) != evaluation.digest:
            raise EvalError(
                f"{evaluation.folder / evaluation.suite}: not the suite that the driver has; its data or heads differ "
                "in size or time: put them on a file system that every worker mounts at the same place"
            )
        if evaluation.part is not None:
            suite = require_divisible(suite, evaluation.suite).part(evaluation.part)
        models = [model.stored for model in evaluation.models]
        if len(models) == 1:
            return suite.evaluate(models[0], evaluation.tasks, evaluation.split, device=device)
        judging = require_classifier(suite, evaluation.suite)
        return ensemble_scores(judging, models, evaluation.tasks, evaluation.split, evaluation.combine, device=device)
    except EvalError as error:
        raise EvalError(f"node '{evaluation.node}': {error}") from error
