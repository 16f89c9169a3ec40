"""Evaluates models and ensembles on workers: sends names of files and suites; a worker reads the files itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lines_pipeline.core.errors import EvalError
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.dask_worker import require_same_files
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.ops.roles import Combination
from lines_pipeline.suites.base import Scores
from lines_pipeline.suites.ensembles import ensemble_scores, require_classifier
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


def evaluate_all(scheduler: Scheduler, evaluations: Sequence[Evaluation]) -> list[Scores]:
    """Return scores by task. Where there are more workers than evaluations, each is dealt out by its tasks."""
    parts = max(scheduler.calls_at_once // max(len(evaluations), 1), 1)
    dealt = [(number, part) for number, one in enumerate(evaluations) for part in _dealt(one, parts)]
    results = scheduler.call(evaluate, [part for _, part in dealt])
    found = [Scores({}) for _ in evaluations]
    for (number, _), scores in zip(dealt, results, strict=True):
        found[number] = found[number].joined(scores)
    return [scores.picked(one.tasks) for one, scores in zip(evaluations, found, strict=True)]


def _dealt(evaluation: Evaluation, parts: int) -> list[Evaluation]:
    count = min(parts, len(evaluation.tasks))
    return [replace(evaluation, tasks=evaluation.tasks[start::count]) for start in range(count)]


def evaluate(evaluation: Evaluation) -> Scores:
    """Evaluate in this process; return scores by task. Raises ``EvalError`` naming the node."""
    require_same_files([model.weights for model in evaluation.models])
    device = resolve_device(evaluation.device)
    try:
        suite = open_suite(evaluation.suite, evaluation.folder)
        if suite.digest(evaluation.split) != evaluation.digest:
            raise EvalError(
                f"{evaluation.folder / evaluation.suite}: not the suite that the driver has; its data or heads differ "
                "in size or time: put them on a file system that every worker mounts at the same place"
            )
        models = [model.stored for model in evaluation.models]
        if len(models) == 1:
            return suite.evaluate(models[0], evaluation.tasks, evaluation.split, device=device)
        judging = require_classifier(suite, evaluation.suite)
        return ensemble_scores(judging, models, evaluation.tasks, evaluation.split, evaluation.combine, device=device)
    except EvalError as error:
        raise EvalError(f"node '{evaluation.node}': {error}") from error
