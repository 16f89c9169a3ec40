"""Where the work of a run is done: in this thread, on Dask's threads, or on a Dask cluster. Results are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from lines_pipeline.core.secrets import NO_SECRETS, Secrets
from lines_pipeline.executor.task_runner import TaskResult, run_task
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.planner.tasks import StagePlan, Task

Item = TypeVar("Item")
Result = TypeVar("Result")
OnDone = Callable[[TaskResult], None]


class Scheduler(Protocol):
    """Does a run's work, and gives results in the order of what was asked, whatever the order they came in."""

    @property
    def tasks_at_once(self) -> int:
        """How many jobs of a sweep are done side by side."""

    @property
    def calls_at_once(self) -> int:
        """How many calls that each want a machine's cores are done side by side."""

    def run_tasks(self, stage_plan: StagePlan, tasks: Sequence[Task], on_done: OnDone) -> list[TaskResult]:
        """Do all jobs of a sweep. ``on_done`` is called in the driver's thread as each ends."""

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call a module's function with each item; it may use all cores, and runs once at a time in a process."""


@contextmanager
def open_scheduler(settings: EngineSettings, secrets: Secrets = NO_SECRETS) -> Iterator[Scheduler]:
    """What ``settings.scheduler`` names, for one run. Raises ``EngineError`` for a cluster that cannot be used.

    What Dask logs of it has ``secrets`` by name. In the end the caller's thread has as many threads of torch as before.
    """
    threads = torch.get_num_threads()
    try:
        if settings.scheduler == "serial":
            yield Serial(settings.workers)
        elif settings.scheduler == "threads":
            import dask.callbacks
            import dask.threaded  # noqa: F401 (while the recording process starts, and not within the first sweep)

            yield Threads(settings.workers)
        else:
            from lines_pipeline.executor.schedulers.dask_cluster import Cluster
            from lines_pipeline.executor.schedulers.dask_logs import hidden_dask_logs

            with hidden_dask_logs(secrets), closing(Cluster(settings.scheduler)) as cluster:
                yield cluster
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Serial:
    """One thing after the other, in the driver's thread; jobs are cut as for so many workers."""

    tasks_at_once: int = 1
    calls_at_once: int = 1

    def run_tasks(self, stage_plan: StagePlan, tasks: Sequence[Task], on_done: OnDone) -> list[TaskResult]:
        """One after the other."""
        results = []
        for task in tasks:
            results.append(run_task(stage_plan, task))
            on_done(results[-1])
        return results

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """One after the other."""
        return [function(item) for item in items]


DRIVER = Serial()
"""For what plans but does not run."""


class Threads(Serial):
    """Jobs on Dask's threads; calls, which use all cores themselves, in the driver's thread."""

    def run_tasks(self, stage_plan: StagePlan, tasks: Sequence[Task], on_done: OnDone) -> list[TaskResult]:
        """As many jobs at a time as there are workers."""
        from dask.callbacks import Callback
        from dask.threaded import get  # asking dask for "threads" by name would import all of distributed

        def posttask(key: Any, result: Any, *_: Any) -> None:
            if isinstance(result, TaskResult):
                on_done(result)

        calls = {number: (partial(run_task, stage_plan, task),) for number, task in enumerate(tasks)}
        with Callback(posttask=posttask):
            at_once = min(self.tasks_at_once, stage_plan.most_at_once or self.tasks_at_once)
            return list(get(calls, list(calls), num_workers=at_once))
