"""Shows progress on the console: bars by bytes of sweeps, steps of the zoo, trials of a search; lines in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lines_pipeline.core.events import (
    Event,
    FileWritten,
    LearningProgress,
    MetricsComputed,
    Note,
    ParamsChosen,
    Sink,
    StageFinished,
    StageProgress,
    StageStarted,
    TrialFinished,
    TrialStarted,
    ZooProgress,
)
from lines_pipeline.core.logs import LOG
from lines_pipeline.core.printable import printable_message
from lines_pipeline.core.units import figure_text

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(console: Console) -> Iterator[Sink]:
    """Yield a sink that shows how far a run has come: with bars on a terminal, with a line now and then in a pipe."""
    if not console.is_terminal:
        yield LogSink(console)
        return
    with ConsoleSink(console) as bars:
        yield bars


@contextmanager
def log_lines(console: Console) -> Iterator[None]:
    """Show meanwhile what the package logs, above the bars where there are any."""
    handler, level = _LogLines(console), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


class _LogLines(logging.Handler):
    """Prints a line for each log record, led by its level."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        text = printable_message(f"{record.levelname.lower()}: {self.format(record)}")
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class ConsoleSink:
    """Shows events on a terminal while a run goes on."""

    def __init__(self, console: Console) -> None:
        bar, text = BarColumn(), TextColumn("{task.description}")
        self._sweeps = Progress(text, bar, DownloadColumn(), TimeElapsedColumn(), console=console, transient=True)
        self._steps = Progress(
            text, bar, TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), console=console, transient=True
        )
        self._active: Progress | None = None
        self._task: TaskID | None = None
        self._trials: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Note():
                _print_note(self._sweeps.console, event)
            case StageStarted(name, total) if self._trials is None:
                self._show(self._sweeps, f"pass {name}", total)
            case StageProgress(done) if self._trials is None and self._task is not None and self._active:
                self._active.update(self._task, completed=done)
            case StageFinished() if self._trials is None:
                self._stop()
            case ZooProgress(done, total, expert):
                self._follow(f"fine-tuning {expert}", done, total)
            case LearningProgress(step, done, total) if self._trials is None:
                self._follow(f"learning {step}", done, total)
            case TrialStarted(number, total, params):
                self._follow(f"trial {_values(params)}", number, total)
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


class LogSink:
    """Prints events as plain lines, at most one every few seconds; what ends sooner is not printed."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._told = clock()
        self._trial = self._pass = self._size = ""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            _print_note(self._console, event)
            return
        text = self._text(event)
        if text and self._clock() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = self._clock()
            self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _text(self, event: Event) -> str:
        match event:
            case StageStarted(name, total):
                self._pass, self._size = f"{self._trial}pass {name}: ", f" of {total / 1e6:,.1f}" if total else ""
            case StageProgress(done):
                return f"{self._pass}{done / 1e6:,.1f}{self._size} MB"
            case StageFinished(_, seconds, nbytes):
                return f"{self._pass}done, {nbytes / 1e6:,.1f} MB in {seconds:.1f} s"
            case ZooProgress(done, total, expert):
                return f"fine-tuning {expert}: {done} of {total} steps"
            case LearningProgress(step, done, total, loss):
                return f"{self._trial}learning {step}: {done} of {total} steps, loss {loss:.6g}"
            case TrialStarted(number, total, params):
                self._trial = f"trial {number + 1} of {total}, {_values(params)}, "
            case TrialFinished(_, objective):
                stopped = f", stopped at {event.share:.4g} of the samples" if event.share < 1 else ""
                return f"{self._trial}objective {objective:g}{stopped}"
            case ParamsChosen():
                self._trial = ""
            case MetricsComputed():
                return f"{event.step}: {_means(event)}"
            case _:
                pass
        return ""


def _means(event: MetricsComputed) -> str:
    """Return the means of the metrics that a suite declares, with their units."""
    means = {name: event.metrics.get(f"mean_{name}") for name in event.declared}
    texts = [
        f"{name} {figure_text(value, event.units.get(f'mean_{name}', ''))}"
        for name, value in means.items()
        if value is not None
    ]
    return ", ".join(texts) or "evaluated"


def _print_note(console: Console, note: Note) -> None:
    console.print(str(note), markup=False, emoji=False, highlight=False, soft_wrap=True)


def _values(chosen: Mapping[str, Any]) -> str:
    """Return parameters with their values, rounded for reading."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in chosen.items()
    )
