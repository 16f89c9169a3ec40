"""The protocol of schedulers: where the tasks of a run are done. Results are the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.planner.tasks import StagePlan, Task

Item = TypeVar("Item")
Result = TypeVar("Result")
OnDone = Callable[[TaskResult], None]


class Scheduler(Protocol):
    """Does a run's work, and gives results in the order of what was asked, whatever the order they came in."""

    @property
    def tasks_at_once(self) -> int:
        """Return how many tasks of a sweep are done side by side."""

    @property
    def calls_at_once(self) -> int:
        """Return how many calls that each want a machine's cores are done side by side."""

    def run_tasks(self, stage_plan: StagePlan, tasks: Sequence[Task], on_done: OnDone) -> list[TaskResult]:
        """Carry out all tasks of a sweep. ``on_done`` is called in the driver's thread as each ends."""

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call a module's function with each item; it may use all cores, and runs once at a time in a process."""
