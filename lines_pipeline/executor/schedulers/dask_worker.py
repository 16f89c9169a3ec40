"""What a cluster's worker does around a task: see that it has the driver's files, and name itself in errors."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import torch

from lines_pipeline.core.errors import EngineError, LinesError
from lines_pipeline.executor.schedulers.base import Item, Result
from lines_pipeline.executor.schedulers.shipping import Shipment, unpacked
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.executor.task_runner import run_task
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.planner.tasks import StagePlan, Task

_SHARED = (
    "workers read and write at the driver's paths: put inputs, outputs and the cache ($XDG_CACHE_HOME) "
    "on a file system that every worker mounts at the same place"
)
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ESTALE, errno.EROFS)
"""What opening a file meets on a machine that does not have the driver's folders, or has others."""
_call = Lock()
"""Held by the call that has this process's cores."""


def open_plan_here(shipment: Shipment) -> StagePlan:
    """Open a plan, as a task: it is made again where a worker that held it dies; scattered, it would be lost."""
    with _named_errors():
        return unpacked(shipment)


def run_job_here(stage_plan: StagePlan, task: Task) -> TaskResult:
    """Carry out one task on a cluster's worker, and name the worker in what goes wrong."""
    with _named_errors():
        require_same_files(stage_plan.files)
        result = run_task(stage_plan, task)
    if result.compiler_failure:
        result.compiler_failure = f"{_name()}: {result.compiler_failure}"
    return result


def call_here(function: Callable[[Item], Result], item: Item) -> Result:
    """Carry out a call as a task, with all threads of the worker."""
    from distributed import get_worker

    with _named_errors(), _call:
        torch.set_num_threads(get_worker().state.nthreads)
        return function(item)


def require_same_files(files: Iterable[SourceFile]) -> None:
    """Raise ``EngineError`` for a file that is not what the driver sees at the same path, as far as its size and
    time (in seconds, which copies keep) tell; ``CheckpointError`` for one that is not there.
    """
    for file in files:
        own = SourceFile.of(Path(file.path))
        if (own.size, own.mtime_ns // 10**9) != (file.size, file.mtime_ns // 10**9):
            raise EngineError(
                f"{file.path}: {own.size} bytes with a time of {own.mtime_ns // 10**9}, the driver has {file.size} "
                f"bytes with {file.mtime_ns // 10**9}; {_SHARED}"
            )


def _name() -> str:
    from distributed import get_worker

    return f"worker {get_worker().address} on {socket.gethostname()}"


@contextmanager
def _named_errors() -> Iterator[None]:
    """Have errors say on which worker they happened, and where it cannot open a file, what to do."""
    name = _name()
    try:
        yield
    except LinesError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _ELSEWHERE:
            raise EngineError(f"{name}: {error}; {_SHARED}") from error
        raise type(error)(f"{name}: {error}") from error
    except OSError as error:
        hint = f"; {_SHARED}" if error.errno in _ELSEWHERE else ""
        raise EngineError(f"{name}: {error.filename or 'a file'}: {error.strerror}{hint}") from error
