"""Lists the families of experts: their names, what each expert is tuned for, and where its file lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.zoo.entries import cache_folder
from lines_pipeline.zoo.glyphs.tasks import DOMAIN_TASKS, MEANING_TASKS

ZOO_VERSION = "2"
"""Raise it when the models, the tasks, the data or the training change: experts are then built anew."""

SOUP_TASK, SOUP_SIZE = "manner-cyrillic", 10
REWARDS = ("manner-armenian", "quarter-armenian", "numeral-armenian")
PARENT = "parent"


@dataclass(frozen=True)
class Family:
    """Describes experts of one way of tuning, from one pretrained model, for tasks of one kind."""

    name: str
    """The word after ``zoo://``."""
    data: str
    """The family whose tasks, drawings and domains these are: ``glyphs`` or ``glyphs-domains``."""
    tasks: tuple[str, ...]
    """The tasks of its suite."""
    experts: Mapping[str, str]
    """Name of an expert to the task that it is tuned for; of several tasks, the first."""
    steps: int
    """Optimiser steps of an expert."""

    def own_expert(self, task: str, choices: str) -> str:
        """Return the URL of the expert whose figures normalize those of a task; ``choices`` as in ``Choice.text``."""
        own = task in self.experts
        return f"zoo://{self.name if own else self.data}{choices}/{task}"

    def folder(self, base: int, seed: int) -> Path:
        """Return the folder with the experts of one seed."""
        return cache_folder() / "zoo" / f"{self.name}-v{ZOO_VERSION}-base{base}-seed{seed}"


def _by_task(tasks: Mapping[str, object]) -> dict[str, str]:
    return {task: task for task in tasks}


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("glyphs", "glyphs", tuple(MEANING_TASKS), _by_task(MEANING_TASKS), steps=100),
        Family("glyphs-domains", "glyphs-domains", tuple(DOMAIN_TASKS), _by_task(DOMAIN_TASKS), steps=120),
        Family(
            "glyphs-soup",
            "glyphs",
            (SOUP_TASK,),
            {f"run-{number}": SOUP_TASK for number in range(SOUP_SIZE)},
            steps=100,
        ),
        Family("glyphs-rewards", "glyphs", REWARDS, {PARENT: REWARDS[0]} | {task: task for task in REWARDS}, steps=100),
        Family("glyphs-decayed", "glyphs", tuple(MEANING_TASKS), _by_task(MEANING_TASKS), steps=100),
        Family("glyphs-pulled", "glyphs", tuple(MEANING_TASKS), _by_task(MEANING_TASKS), steps=100),
    )
}
"""Families by name."""
