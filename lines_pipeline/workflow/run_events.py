"""Tells the sinks and the record of a run how it begins, what it notes, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lines_pipeline.core.events import Event, Note, RunFinished, Sink, broadcast, hidden_from
from lines_pipeline.core.secrets import Secrets
from lines_pipeline.executor.inputs import OpenedRecipe
from lines_pipeline.planner.explain import Explanation
from lines_pipeline.results import RunResult
from lines_pipeline.workflow.explaining import artifact_texts

if TYPE_CHECKING:
    from lines_pipeline.tracking.opening import OpenRecord


@dataclass(frozen=True)
class RunEvents:
    """The events of one run, as its sinks, and its record where there is one, are told of them."""

    secrets: Secrets
    record: OpenRecord | None
    emit: Sink
    """Takes the events of the run."""
    notes: list[Note]
    """What the run noted so far."""
    _started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Return how long the run has taken so far."""
        return time.perf_counter() - self._started

    def begin(self, context: OpenedRecipe, report: Explanation) -> None:
        """Tell what will run, and what should be known before it."""
        if self.record is not None:
            self.emit(self.record.started(context.recipe, context.graph, artifact_texts(context, report)))
        for note in (*context.notes, *report.notes):
            self.emit(Note(note))
        for warning in report.warnings:
            self.emit(Note(warning, warning=True))

    def complete(self, result: RunResult) -> RunResult:
        """Return the result with the run's id, store, time and notes."""
        run_id, uri = (self.record.run_id, self.record.uri) if self.record else ("", "")
        notes = tuple(str(note) for note in self.notes)
        return replace(result, run_id=run_id, tracking_uri=uri, seconds=self.seconds, notes=notes, secrets=self.secrets)


@contextmanager
def run_events(secrets: Secrets, record: OpenRecord | None, sinks: Sequence[Sink]) -> Iterator[RunEvents]:
    """Yield the events of what the body does; the last event tells whether that finished, failed or was killed."""
    from lines_pipeline.tracking.plugin_sinks import warn_of_failures

    notes: list[Note] = []

    def keep_note(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event)

    tell = broadcast(*sinks, keep_note)
    events = RunEvents(secrets, record, hidden_from(secrets, tell if record is None else record.beside(tell)), notes)
    warn_of_failures(sinks, events.emit)
    status, error = "FAILED", ""
    try:
        yield events
        status = "FINISHED"
    except KeyboardInterrupt:
        status, error = "KILLED", "interrupted"
        raise
    except Exception as failure:
        error = str(failure)
        raise
    finally:
        events.emit(RunFinished(status, events.seconds, error))
