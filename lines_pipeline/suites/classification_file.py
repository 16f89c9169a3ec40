"""Declares the fields of a suite file of the kind ``classification``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lines_pipeline.suites.logit_scores import CLASSIFICATION_METRICS
from lines_pipeline.suites.suite_files import Figures, FilePath, ModelFactory, Section, Shares, by_split, named_tasks

_NAMES = tuple(metric.name for metric in CLASSIFICATION_METRICS)


def _known_metrics(value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    for figures in value.values():
        for name in figures:
            if name not in _NAMES:
                raise ValueError(f"unknown metric '{name}', expected one of: {', '.join(_NAMES)}")
    return value


class TaskFile(Section):
    """Tells where a task's head and data lie, and the figures that normalize."""

    head: FilePath
    """A checkpoint with one 2-D tensor [classes, features], whose rows are used as they are, and maybe a 1-D ``bias``
    [classes]."""
    data: Annotated[dict[str, FilePath], AfterValidator(by_split)]
    """Split to a safetensors file (``images`` [n, ...] as the model takes them, ``labels`` [n], maybe ``clusters``
    [n]), or ``hf://datasets/org/name[/configuration]#split`` (columns ``image`` and ``label``)."""
    expert: Annotated[Figures, AfterValidator(_known_metrics)] = {}
    pretrained: Annotated[Figures, AfterValidator(_known_metrics)] = {}
    expert_accuracy: Shares = {}
    pretrained_accuracy: Shares = {}

    def baseline(self, role: Literal["expert", "pretrained"], split: str) -> dict[str, float]:
        """Return the figures that the file records of a role on a split, by metric."""
        figures, accuracy = (
            (self.expert, self.expert_accuracy) if role == "expert" else (self.pretrained, self.pretrained_accuracy)
        )
        known = {"accuracy": accuracy[split]} if split in accuracy else {}
        return {**known, **figures.get(split, {})}


class ClassificationFile(Section):
    """Declares the top level of the file."""

    model: ModelFactory
    normalize_features: bool = True
    """Whether features are scaled to unit length before the head."""
    logit_scale: float = Field(1.0, gt=0)
    tasks: Annotated[dict[str, TaskFile], AfterValidator(named_tasks)] = Field(min_length=1)
