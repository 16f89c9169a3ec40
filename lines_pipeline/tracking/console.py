"""Progress on the console: bars by bytes for sweeps, by steps for the zoo, by trials for a search."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lines_pipeline.core.events import (
    Event,
    FileWritten,
    MetricsComputed,
    ParamsChosen,
    PassFinished,
    PassProgress,
    PassStarted,
    TrialFinished,
    TrialStarted,
    ZooProgress,
)


class ConsoleSink:
    """Shows events while a run goes on; silent where the console is not a terminal."""

    def __init__(self, console: Console) -> None:
        bar, text = BarColumn(), TextColumn("{task.description}")
        self._sweeps = Progress(text, bar, DownloadColumn(), TimeElapsedColumn(), console=console, transient=True)
        self._steps = Progress(
            text, bar, TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), console=console, transient=True
        )
        self._active: Progress | None = None
        self._task: TaskID | None = None
        self._enabled = console.is_terminal
        self._trials: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        if not self._enabled:
            return
        match event:
            case PassStarted(name, total) if self._trials is None:
                self._show(self._sweeps, f"pass {name}", total)
            case PassProgress(done) if self._trials is None and self._task is not None and self._active:
                self._active.update(self._task, completed=done)
            case PassFinished() if self._trials is None:
                self._stop()
            case ZooProgress(done, total, expert):
                self._follow(f"fine-tuning {expert}", done, total)
            case TrialStarted(number, total, params):
                values = ", ".join(
                    f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in params.items()
                )
                self._follow(f"trial {values}", number, total)
                self._trials = self._task
            case TrialFinished(number):
                if self._active and self._task is not None:
                    self._active.update(self._task, completed=number + 1)
            case ParamsChosen() | MetricsComputed() | FileWritten():
                self._stop()
            case _:
                pass

    def _follow(self, text: str, done: int, total: int) -> None:
        if self._active is not self._steps:
            self._show(self._steps, text, total)
        assert self._task is not None
        self._steps.update(self._task, completed=done, description=text, total=total)
        if done >= total:
            self._stop()

    def _show(self, progress: Progress, text: str, total: int) -> None:
        self._stop()
        self._active = progress
        self._task = progress.add_task(text, total=total or None)
        progress.start()

    def _stop(self) -> None:
        if self._active is not None:
            self._active.stop()
            if self._task is not None:
                self._active.remove_task(self._task)
        self._active = self._task = self._trials = None
