"""Schedulers of this process: the driver's thread, or Dask's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lines_pipeline.executor.schedulers.base import Item, OnDone, Result
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.executor.task_runner import run_task
from lines_pipeline.planner.tasks import StagePlan, Task


@dataclass(frozen=True)
class Serial:
    """Runs one thing after the other, in the driver's thread; tasks are cut as for so many workers."""

    tasks_at_once: int = 1
    calls_at_once: int = 1

    def run_tasks(self, stage_plan: StagePlan, tasks: Sequence[Task], on_done: OnDone) -> list[TaskResult]:
        """Carry out one task after the other."""
        results = []
        for task in tasks:
            results.append(run_task(stage_plan, task))
            on_done(results[-1])
        return results

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call the function with one item after the other."""
        return [function(item) for item in items]


DRIVER = Serial()
"""For what plans but does not run."""


class Threads(Serial):
    """Jobs on Dask's threads; calls, which use all cores themselves, in the driver's thread."""

    def run_tasks(self, stage_plan: StagePlan, tasks: Sequence[Task], on_done: OnDone) -> list[TaskResult]:
        """Carry out as many tasks at a time as there are workers."""
        from dask.callbacks import Callback
        from dask.threaded import get  # asking dask for "threads" by name would import all of distributed

        def posttask(key: Any, result: Any, *_: Any) -> None:
            if isinstance(result, TaskResult):
                on_done(result)

        calls = {number: (partial(run_task, stage_plan, task),) for number, task in enumerate(tasks)}
        with Callback(posttask=posttask):
            at_once = min(self.tasks_at_once, stage_plan.most_at_once or self.tasks_at_once)
            return list(get(calls, list(calls), num_workers=at_once))
