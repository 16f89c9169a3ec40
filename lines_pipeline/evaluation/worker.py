"""Evaluates models on workers: sends names of files and suites, and a worker reads the files itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lines_pipeline.core.errors import EvalError
from lines_pipeline.executor.devices import resolve_device
from lines_pipeline.executor.schedulers.base import Scheduler
from lines_pipeline.executor.schedulers.dask_worker import require_same_files
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.suites.base import Scores
from lines_pipeline.suites.models import StoredModel
from lines_pipeline.suites.opening import open_suite


@dataclass(frozen=True)
class Evaluation:
    """Names a model's file and the suite to evaluate it on: its URI from ``folder``, and its digest for the driver."""

    node: str
    model: SourceFile
    suite: str
    folder: Path
    digest: str
    tasks: tuple[str, ...]
    split: str
    device: str
    followed: Path | None = None
    """A file of the checkpoint whose configuration and tokenizer the model follows."""


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
    require_same_files([evaluation.model])
    device = resolve_device(evaluation.device)
    try:
        suite = open_suite(evaluation.suite, evaluation.folder)
        if suite.digest(evaluation.split) != evaluation.digest:
            raise EvalError(
                f"{evaluation.folder / evaluation.suite}: not the suite that the driver has; its data or heads differ "
                "in size or time: put them on a file system that every worker mounts at the same place"
            )
        model = StoredModel(Path(evaluation.model.path), evaluation.followed)
        return suite.evaluate(model, evaluation.tasks, evaluation.split, device=device)
    except EvalError as error:
        raise EvalError(f"node '{evaluation.node}': {error}") from error
