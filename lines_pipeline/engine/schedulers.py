"""Where jobs run: in this thread, on Dask's threads, or on a Dask cluster by its address. Results are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lines_pipeline.core.errors import EngineError
from lines_pipeline.engine.jobs import JobResult, run_job
from lines_pipeline.planning.program import Job, Program

OnDone = Callable[[JobResult], None]


def run_jobs(program: Program, jobs: Sequence[Job], scheduler: str, workers: int, on_done: OnDone) -> list[JobResult]:
    """Run all jobs; results in the jobs' order. ``on_done`` is called in the driver's thread as each ends."""
    if scheduler == "serial":
        return _serial(program, jobs, on_done)
    if scheduler == "threads":
        return _threads(program, jobs, workers, on_done)
    return _cluster(program, jobs, scheduler, on_done)


def _serial(program: Program, jobs: Sequence[Job], on_done: OnDone) -> list[JobResult]:
    results = []
    for job in jobs:
        results.append(run_job(program, job))
        on_done(results[-1])
    return results


def _threads(program: Program, jobs: Sequence[Job], workers: int, on_done: OnDone) -> list[JobResult]:
    import dask
    from dask.callbacks import Callback

    def posttask(key: Any, result: Any, *_: Any) -> None:
        if isinstance(result, JobResult):
            on_done(result)

    tasks = [dask.delayed(partial(run_job, program, job), pure=False)() for job in jobs]
    with Callback(posttask=posttask):
        return list(dask.compute(*tasks, scheduler="threads", num_workers=workers, optimize_graph=False))


def _cluster(program: Program, jobs: Sequence[Job], address: str, on_done: OnDone) -> list[JobResult]:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise EngineError(
            f"scheduler {address}: needs the extra 'cluster': pip install 'lines-pipeline[cluster]'"
        ) from error
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise EngineError(f"scheduler {address}: no Dask scheduler answers there ({error})") from error
    with client:
        shared = client.submit(_itself, program, pure=False, retries=3)
        futures = [client.submit(run_job, shared, job, pure=False, retries=3) for job in jobs]
        for future in as_completed(futures, loop=client.loop):
            on_done(future.result())
        return list(client.gather(futures))


def _itself(program: Program) -> Program:
    """As a task, the program is made again where a worker that held it dies; scattered, it would be lost."""
    return program
