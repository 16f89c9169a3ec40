"""A Dask cluster as the driver sees it: one connection a run, workers that are known to give the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lines_pipeline.core.plugins import Origin
from lines_pipeline.core.versions import package_versions
from lines_pipeline.executor.schedulers.base import Item, OnDone, Result
from lines_pipeline.executor.schedulers.dask_connection import Connection
from lines_pipeline.executor.schedulers.dask_worker import call_here, open_plan_here, run_job_here
from lines_pipeline.executor.schedulers.shipping import packed
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.planner.tasks import StagePlan, Task

PATIENCE_SECONDS = 30.0
"""How long a cluster may have no workers at all."""
SAME_PACKAGES = ("lines-pipeline", "torch", "numpy")
"""Packages that results depend on."""


class Cluster:
    """A ``Scheduler``; close it when the run is over. Raises ``EngineError`` where nobody answers or can be used."""

    def __init__(self, address: str, plugins: Sequence[Origin] = ()) -> None:
        self._connection, self._checked, self._plugins = Connection(address), set[str](), plugins
        self._client = self._connection.client
        try:
            self._check_workers()
        except BaseException:
            self.close()
            raise

    @property
    def tasks_at_once(self) -> int:
        """Return the number of threads of all workers."""
        return max(sum(self._threads().values()), 1)

    @property
    def calls_at_once(self) -> int:
        """Return the number of workers."""
        return max(len(self._threads()), 1)

    def run_tasks(self, stage_plan: StagePlan, tasks: Sequence[Task], on_done: OnDone) -> list[TaskResult]:
        """Submit tasks to Dask; workers are sent the stage plan once a sweep."""
        self._check_workers()
        shared = self._client.submit(open_plan_here, packed(stage_plan, self._plugins), pure=False)
        return self._results([self._client.submit(run_job_here, shared, task, pure=False) for task in tasks], on_done)

    def call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Submit calls as tasks; return their results."""
        self._check_workers()
        return self._results([self._client.submit(call_here, function, item, pure=False) for item in items])

    def close(self) -> None:
        """End the connection; the cluster stays as it is."""
        self._connection.close()

    def _results(self, futures: Sequence[Any], on_done: Callable[[Any], None] = lambda result: None) -> list[Any]:
        from distributed import CancelledError
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker

        results: dict[Any, Any] = {}
        try:
            for future in self._as_they_end(futures):
                results[future.key] = self._connection.answer(future.result)
                on_done(results[future.key])
        except BaseException as error:
            self._connection.tell(self._client.cancel, futures)
            if isinstance(error, KilledWorker):
                times = f"{error.allowed_failures + 1} workers died one after the other over the same task"
                raise self._connection.error(
                    f"{times}, most often for want of memory: give workers more of it"
                ) from error
            if isinstance(error, CancelledError | CommClosedError):
                raise self._connection.lost() from error
            raise
        self._check_workers()  # some may have joined meanwhile
        return [results[future.key] for future in futures]

    def _as_they_end(self, futures: Sequence[Any]) -> Iterator[Any]:
        """Yield futures as they end; check now and then that there are workers, for which it would wait for ever."""
        from distributed import as_completed

        pending = {future.key: future for future in futures}
        while pending:
            try:
                for future in as_completed(list(pending.values()), loop=self._client.loop, timeout=PATIENCE_SECONDS):
                    del pending[future.key]
                    yield future
            except TimeoutError:
                self._check_workers()

    def _check_workers(self) -> None:
        """Check every worker once: that there are any, and that they have the driver's packages."""
        self._wait_for_workers()
        unknown = sorted(set(self._threads()) - self._checked)
        if not unknown:
            return
        expected = package_versions(SAME_PACKAGES)
        answers = self._connection.ask(
            self._client.run, package_versions, SAME_PACKAGES, workers=unknown, on_error="return"
        )
        answered = {worker: answer for worker, answer in answers.items() if not isinstance(answer, OSError)}
        for worker, versions in sorted(answered.items()):
            difference = _difference(versions, expected)
            if difference:
                raise self._connection.error(
                    f"worker {worker} has {difference}, so that results could differ: "
                    "start workers from the environment that the driver runs in"
                )
        self._checked.update(answered)

    def _threads(self) -> dict[str, int]:
        """Return the number of threads by worker's address, as the scheduler has it now."""
        return dict(self._connection.ask(self._client.nthreads))

    def _wait_for_workers(self) -> None:
        try:
            self._connection.ask(self._client.wait_for_workers, 1, timeout=PATIENCE_SECONDS)
        except TimeoutError as error:
            raise self._connection.error(
                f"it has had no workers for {PATIENCE_SECONDS:g} seconds; start some: "
                f"dask worker {self._connection.address}"
            ) from error


def _difference(versions: Mapping[str, str] | Exception, expected: Mapping[str, str]) -> str:
    """Return which packages a worker has in other versions; local parts (``+cpu``) may differ."""
    if isinstance(versions, Exception):
        return f"no package of this version ({versions})"
    differences = []
    for name, version in expected.items():
        own = versions.get(name)
        if (own or "").partition("+")[0] != version.partition("+")[0]:
            differences.append(f"{f'{name} {own}' if own else f'no {name}'} (the driver: {version})")
    return ", ".join(differences)
