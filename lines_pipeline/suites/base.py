"""Opens the suite that a recipe names: the embedded one, or a file of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lines_pipeline.core.errors import EvalError, did_you_mean
from lines_pipeline.core.events import Sink
from lines_pipeline.zoo.catalogue import TASKS, parse

if TYPE_CHECKING:
    import torch


class Suite(Protocol):
    """Tasks with data and heads."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks."""

    def digest(self, split: str) -> str:
        """Content identity of a split's data and heads."""

    def accuracies(
        self, state: Mapping[str, torch.Tensor], tasks: Sequence[str], split: str, *, device: str = "cpu"
    ) -> dict[str, float]:
        """Accuracy (0..1) by task of a state dict; ``EvalError`` where it does not fit the suite's model."""

    def expert_accuracies(self, tasks: Sequence[str], split: str) -> Mapping[str, float | None]:
        """Accuracy of each task's own expert by task; None where the suite does not record it."""

    def pretrained_accuracy(self, task: str, split: str) -> float | None:
        """Accuracy of the pretrained model, where the suite records it."""


def open_suite(uri: str, folder: Path, emit: Sink = lambda event: None) -> Suite:
    """The suite at ``uri``; relative paths start from ``folder``, the recipe's. ``emit`` is told of what it builds."""
    if uri.startswith("zoo://"):
        from lines_pipeline.suites.glyphs import GlyphSuite

        return GlyphSuite(_seed(uri), emit)
    from lines_pipeline.suites.classification import ClassificationSuite

    return ClassificationSuite.read(suite_path(uri, folder))


def suite_path(uri: str, folder: Path) -> Path:
    """The file of a suite of the user's own."""
    try:
        return folder / Path(uri).expanduser()
    except RuntimeError as error:
        raise EvalError(f"{uri}: {error}; write the whole path") from error


def suite_tasks(uri: str, folder: Path) -> tuple[str, ...]:
    """The task names of a suite, without building, downloading or loading anything."""
    if uri.startswith("zoo://"):
        _seed(uri)
        return tuple(TASKS)
    from lines_pipeline.suites.suite_files import read_suite_file

    return tuple(read_suite_file(suite_path(uri, folder))[0].tasks)


def chosen_tasks(uri: str, folder: Path, tasks: Sequence[str] | None, target: str | None) -> tuple[str, ...]:
    """The tasks to evaluate; ``EvalError`` for names that the suite does not have."""
    known = suite_tasks(uri, folder)
    for task in (*(tasks or ()), *([target] if target else ())):
        if task not in known:
            raise EvalError(f"{uri}: no task '{task}'{did_you_mean(task, known)}; it has: {', '.join(known)}")
    chosen = tuple(tasks) if tasks else known
    return chosen if target is None or target in chosen else (*chosen, target)


def missing_files(uri: str, folder: Path, tasks: Sequence[str], split: str) -> tuple[str, ...]:
    """What is said of each file that the suite lacks for a split; ``EvalError`` for a split that ``tasks`` lack."""
    if not uri.startswith("zoo://"):
        from lines_pipeline.suites.classification import ClassificationSuite

        return ClassificationSuite.read(suite_path(uri, folder)).missing_files(tasks, split)
    if split == "train":
        raise EvalError(f"{uri}: split 'train' is for training, expected val or test")
    return ()


@dataclass(frozen=True)
class Runs:
    """What a suite runs beside this package: Python of the user's own, or what could unpickle files."""

    what: str
    untrusted: str
    """Why it may not run here and what to do, an empty text where it may."""


def suite_runs(uri: str, folder: Path) -> Runs | None:
    """What a suite would run; None where it runs nothing of its own. ``EvalError`` where that is not there.

    Imports nothing.
    """
    if uri.startswith("zoo://"):
        return None
    from lines_pipeline.suites.classification import ClassificationSuite

    suite = ClassificationSuite.read(suite_path(uri, folder))
    what = suite.wants_trust()
    return Runs(what, suite.untrusted()) if what else None


def _seed(uri: str) -> int:
    seed, name = parse(uri)
    if name:
        raise EvalError(f"{uri}: a suite is zoo://glyphs, without '/{name}'")
    return seed
