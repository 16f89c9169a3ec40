"""Measure a tool on a job: some runs, the first of them with whatever it does only once, and the median of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from floor import seconds_to_write
from passes import Sweeps, latest_sweeps
from tools import Job, Tool
from watching import Limits, Watched, watch

LONG_SECONDS = 60.0
"""A tool whose first run takes longer is not run again."""


@dataclass(frozen=True)
class Measurement:
    """What one tool did with one method."""

    tool: str
    title: str
    method: str
    first_seconds: float
    runs: int
    median: Watched
    """The run of median time, or the one that failed."""
    sweeps: Sweeps | None
    """Of the median run; only this project records them."""
    writing_seconds: float = 0.0
    """What writing as many bytes takes alone, measured after the runs; of this project."""
    difference: float | None = None
    """From this project's result; None where there is nothing to compare."""


def measure(tool: Tool, job: Job, limits: Limits, repeats: int) -> Measurement:
    """Carry out ``job`` up to ``repeats`` times in one folder, which is empty before the first; its cache always is."""
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    tool.environment.ensure()
    runs: list[tuple[Watched, Sweeps | None]] = []
    while len(runs) < repeats and not (runs and (runs[0][0].failure or runs[0][0].seconds > LONG_SECONDS)):
        shutil.rmtree(job.cache, ignore_errors=True)
        watched = watch(tool.command(job), limits)
        if not watched.failure and not job.output.exists():
            raise FileNotFoundError(f"{tool.name} ended well but left no {job.output}; see {job.folder / 'log.txt'}")
        runs.append((watched, _sweeps(job.folder) if not watched.failure else None))
    middle, sweeps = _middle(runs)
    writing = _seconds_to_write(job, sweeps) if sweeps else 0.0
    return Measurement(tool.name, tool.title, job.method, runs[0][0].seconds, len(runs), middle, sweeps, writing)


def _seconds_to_write(job: Job, sweeps: Sweeps) -> float:
    size = job.output.stat().st_size
    return median(seconds_to_write(job.folder, size, sweeps.written_bytes) for _ in range(3))


def _sweeps(folder: Path) -> Sweeps | None:
    store = folder / "mlflow.db"
    return latest_sweeps(store) if store.exists() else None


def _middle(runs: Sequence[tuple[Watched, Sweeps | None]]) -> tuple[Watched, Sweeps | None]:
    failed = [run for run in runs if run[0].failure]
    return failed[0] if failed else sorted(runs, key=lambda run: run[0].seconds)[len(runs) // 2]
