"""Records every run as an MLflow run: parameters, metrics, artifacts, tags; trials as nested child runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.events import (
    Event,
    FileWritten,
    Note,
    ParamsChosen,
    RunFinished,
    RunStarted,
    StageFinished,
    TrialFinished,
    TrialStarted,
)
from lines_pipeline.tracking.event_records import record_of
from lines_pipeline.tracking.experiments import Target
from lines_pipeline.tracking.names import means_first, mlflow_name
from lines_pipeline.tracking.sending import Sender
from lines_pipeline.tracking.store_runs import StoreRuns
from lines_pipeline.tracking.written_files import file_rows

if TYPE_CHECKING:
    from mlflow.entities import Metric

FILES_FILE = "files.json"
"""The artifact with every file that a run wrote."""


class MlflowSink:
    """Records events in one run, from one thread of the driver. Raises ``TrackingError`` where the store fails.

    Metrics and tags of the run are sent by ``flush``, and before it ends: every request waits for a disk or a server.
    """

    def __init__(self, uri: str, new: bytes | None = None, *, record: str = "", resumes: bool = False) -> None:
        """Take the content (``new``) of a database that may have to be made (``stores.prepare``).

        With ``resumes``, what an earlier attempt to send the ``record`` has made is taken up again.
        """
        self.uri, self._runs = uri, StoreRuns(uri, new, record=record, resumes=resumes)
        self.run_id = self._trial = ""
        self._at = 0
        self._chosen: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._notes: list[str] = []
        self._files: list[dict[str, Any]] = []
        self._passes = 0

    def __call__(self, event: Event, at: int | None = None) -> None:
        """Record an event that happened ``at`` (milliseconds since 1970; default now)."""
        handler = getattr(self, f"_on_{type(event).__name__}", self._record)
        self._at = int(time.time() * 1000) if at is None else at
        with self._runs.named():
            handler(event)

    def flush(self) -> None:
        """Send what has come since the last time."""
        if self._metrics or self._tags:
            with self._runs.named():
                self._send_pending()

    def open(self, target: Target) -> None:
        """Connect, and see that there is a place for the run, which is not made yet."""
        with self._runs.named():
            self._runs.find(target)

    def refusals(self) -> list[str]:
        """Return what the store would not take since the last time, and why."""
        return self._runs.refusals()

    @property
    def _sender(self) -> Sender:
        return self._runs.sender

    def _on_RunStarted(self, event: RunStarted) -> None:  # noqa: N802
        run = self._runs.find(Target(event.experiment, event.experiment_id, self.run_id or event.run_id))
        if run is None:
            self._params = dict(event.params)
            self.run_id = self._runs.create(event.name, event.tags, self._at)
        else:
            self._go_on(run, event)
        for name, text in event.texts.items():
            self._sender.text(self.run_id, text, name)

    def _go_on(self, run: Any, event: RunStarted) -> None:
        """Record into a run that is there: what it says already of other things than this run stays."""
        self.run_id = run.info.run_id
        self._sender.client.update_run(self.run_id, status="RUNNING")
        self._tags |= {k: v for k, v in event.tags.items() if not (k.startswith("mlflow.") and k in run.data.tags)}
        self._params = self._runs.kept_params(run, event.params)

    def _on_Note(self, event: Note) -> None:  # noqa: N802
        self._notes.append(str(event))

    def _on_StageFinished(self, event: StageFinished) -> None:  # noqa: N802
        step, self._passes = self._passes, self._passes + 1
        figures = {
            "pass/seconds": event.seconds,
            "pass/bytes_read": float(event.bytes_read),
            "pass/bytes_written": float(event.bytes_written),
            "pass/bytes_per_second": event.bytes_read / max(event.seconds, 1e-9),
        }
        self._log(figures, step)

    def _on_ParamsChosen(self, event: ParamsChosen) -> None:  # noqa: N802
        wholes = {name: json.dumps(value, ensure_ascii=False, default=str) for name, value in event.wholes.items()}
        self._chosen = {**event.params, **wholes}
        self._log({"tune/objective": event.objective})

    def _on_TrialStarted(self, event: TrialStarted) -> None:  # noqa: N802
        name, tags = f"trial-{event.number:03d}", {"mlflow.parentRunId": self.run_id}
        self._trial = self._runs.create(name, tags, self._at, trial=f"/{event.number}")
        self._sender.batch(self._trial, params=self._sender.params(self._trial, event.params))

    def _on_TrialFinished(self, event: TrialFinished) -> None:  # noqa: N802
        sender, figures = self._sender, {**event.metrics, "tune/objective": event.objective}
        if event.share < 1:  # figures of a part of the samples are not to be compared with those of others
            figures = {"tune/objective_when_stopped": event.objective, "tune/share": event.share}
        metrics = [self._metric(name, figures[name], 0) for name in sorted(figures, key=means_first)]
        sender.batch(self._trial, metrics, tags=sender.tags({"cached": "true"} if event.cached else {}))
        self._runs.end(self._trial, "FINISHED", self._at)
        self._trial = ""

    def _on_FileWritten(self, event: FileWritten) -> None:  # noqa: N802
        self._files += file_rows(event)
        of_node = [row for row in self._files if row["node"] == event.node]
        text = (
            f"{len(of_node)} files, see {FILES_FILE}"
            if len(of_node) > 1
            else of_node[0]["digest"] or f"{event.nbytes} bytes"
        )
        self._tags[f"file.{event.node}"] = text
        if event.reused:
            self._tags[f"cached.{event.node}"] = "true"

    def _on_RunFinished(self, event: RunFinished) -> None:  # noqa: N802
        if not self.run_id:
            return
        sender = self._sender
        try:
            if event.error:  # first, and by itself: whatever else is refused, why the run failed is recorded
                sender.batch(self.run_id, tags=sender.tags({"error": event.error}))
            if self._files:
                sender.json(self.run_id, {"files": self._files}, FILES_FILE)
            if self._notes:
                sender.text(self.run_id, "".join(f"{note}\n" for note in self._notes), "notes.txt")
            self._log({"run/seconds": event.seconds})
            self._send_pending({**self._params, **self._chosen})
        finally:
            for run in filter(None, (self.run_id, self._trial)):
                self._runs.end(run, event.status, self._at)

    def _record(self, event: Event) -> None:
        """Send the artifacts of an event that tells results; its metrics and tags wait."""
        if (record := record_of(event)) is None:
            return
        self._metrics += [self._metric(figure.name, figure.value, figure.step) for figure in record.figures]
        self._tags |= record.tags
        for path, text in record.texts.items():
            self._sender.text(self.run_id, text, path)
        for path, content in record.contents.items():
            self._sender.json(self.run_id, content, path)

    def _log(self, figures: Mapping[str, float], step: int = 0) -> None:
        self._metrics += [self._metric(name, figures[name], step) for name in sorted(figures, key=means_first)]

    def _metric(self, name: str, value: float, step: int) -> Metric:
        from mlflow.entities import Metric

        return Metric(mlflow_name(name), float(value), self._at, step)

    def _send_pending(self, params: Mapping[str, Any] | None = None) -> None:
        """Send what is pending; a request that fails is not made again, and the run's end is told in any case."""
        sender = self._sender
        metrics, self._metrics = self._metrics, []
        tags, self._tags = sender.tags(self._tags), {}
        sender.batch(self.run_id, metrics, sender.params(self.run_id, params or {}), tags)
