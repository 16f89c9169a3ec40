"""Records every run as an MLflow run: parameters, metrics, artifacts, tags; trials as nested child runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import (
    BlockScales,
    Event,
    FigureDrawn,
    FileWritten,
    InputsIdentified,
    LearningProgress,
    MetricsComputed,
    Note,
    ParamsChosen,
    RunFinished,
    RunStarted,
    SamplesJudged,
    StageFinished,
    SummaryComputed,
    TableComputed,
    TrialFinished,
    TrialStarted,
)
from lines_pipeline.core.secrets import without_credentials
from lines_pipeline.io.companions import CARD
from lines_pipeline.io.entries import file_digest
from lines_pipeline.tracking.experiments import Target, experiment_id
from lines_pipeline.tracking.names import means_first, mlflow_name, step_path
from lines_pipeline.tracking.sending import Sender, patiently, plain_tags
from lines_pipeline.tracking.stores import artifacts, connect

if TYPE_CHECKING:
    from mlflow.entities import Metric

RECORD_TAG = "lines_pipeline.record"
"""By this tag a run is found again when its record is sent later."""
INPUTS_FILE = "inputs.json"
"""The artifact with the content digests of what a run read."""

SAMPLES_FOLDER = "samples"
"""The folder of artifacts with per-sample results, one for each evaluation step."""

FIGURES_FOLDER = "figures"
"""The folder of artifacts with pictures, and their data."""

FILES_FILE = "files.json"
"""The artifact with every file that a run wrote."""


class MlflowSink:
    """Records events in one run, from one thread of the driver. Raises ``TrackingError`` where the store fails.

    Metrics and tags of the run are sent by ``flush``, and before it ends: every request waits for a disk or a server.
    """

    def __init__(self, uri: str, new: bytes | None = None, *, record: str = "", resumes: bool = False) -> None:
        """``new`` is the content of a database that may have to be made (``stores.prepare``).

        With ``resumes``, what an earlier attempt to send the ``record`` has made is taken up again.
        """
        self.uri, self.run_id, self._new = uri, "", new
        self._record, self._resumes = record, resumes
        self._sender: Sender | None = None
        self._experiment = self._trial = ""
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
        handler = getattr(self, f"_on_{type(event).__name__}", None)
        if handler is not None:
            self._at = int(time.time() * 1000) if at is None else at
            self._guarded(lambda: handler(event))

    def flush(self) -> None:
        """Send what has come since the last time."""
        if self._metrics or self._tags:
            self._guarded(self._send_pending)

    def open(self, target: Target) -> None:
        """Connect, and see that there is a place for the run, which is not made yet."""
        self._guarded(lambda: self._place(target))

    def complaints(self) -> list[str]:
        """Return what the store would not take since the last time, and why."""
        found: list[str] = []
        if self._sender is not None:
            found, self._sender.complaints = self._sender.complaints, found
        return found

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except TrackingError as error:
            store = f"tracking store {without_credentials(self.uri)}"
            raise error if str(error).startswith(store) else TrackingError(f"{store}: {error}") from error
        except Exception as error:  # whatever a store or a network raises
            what = without_credentials(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            raise TrackingError(f"tracking store {without_credentials(self.uri)}: {what}") from error

    def _sending(self) -> Sender:
        if self._sender is None:
            self._sender = Sender(patiently(lambda: connect(self.uri, self._new)))
            self._new = None
        return self._sender

    def _place(self, target: Target) -> Any:
        """Return the run to go on with, if there is one; else None, with the experiment for a new one."""
        client = self._sending().client
        if target.run_id:
            found = client.get_run(target.run_id)
            if found.info.lifecycle_stage == "deleted":
                raise TrackingError(f"the run {target.run_id} was deleted; bring it back, or unset MLFLOW_RUN_ID")
            self._experiment = found.info.experiment_id
            return found
        self._experiment = patiently(lambda: experiment_id(client, target, artifacts(self.uri)))
        return None

    def _on_RunStarted(self, event: RunStarted) -> None:  # noqa: N802
        sender = self._sending()
        self._params = dict(event.params)
        run = self._place(Target(event.experiment, event.experiment_id, self.run_id or event.run_id))
        if run is None:
            self.run_id = self._made(event.name, event.tags, self._record)
        else:
            self._go_on(run, event)
        for name, text in event.texts.items():
            sender.text(self.run_id, text, name)

    def _go_on(self, run: Any, event: RunStarted) -> None:
        """Record into a run that is there: what it says already of other things than this run stays."""
        sender, self.run_id = self._sending(), run.info.run_id
        sender.client.update_run(self.run_id, status="RUNNING")
        self._tags |= {k: v for k, v in event.tags.items() if not (k.startswith("mlflow.") and k in run.data.tags)}
        told = {param.key: param.value for param in sender.params(self.run_id, self._params)}
        for name in list(self._params):
            own = mlflow_name(name)
            if run.data.params.get(own, told[own]) != told[own]:
                value = run.data.params[own]
                sender.complaints.append(
                    f"the parameter {own} is {value} already, and stays so; here it is {told[own]}"
                )
                del self._params[name]

    def _made(self, name: str, tags: Mapping[str, str], record: str) -> str:
        client = self._sending().client
        if self._resumes:
            wanted = f"tags.`{RECORD_TAG}` = '{record}'"
            for found in client.search_runs([self._experiment], wanted, max_results=1):
                return str(found.info.run_id)
        own = plain_tags({**tags, **({RECORD_TAG: record} if record else {})})
        made = patiently(lambda: client.create_run(self._experiment, self._at, own, name))
        return str(made.info.run_id)

    def _on_Note(self, event: Note) -> None:  # noqa: N802
        self._notes.append(str(event))

    def _on_InputsIdentified(self, event: InputsIdentified) -> None:  # noqa: N802
        self._sending().json(self.run_id, dict(event.digests), INPUTS_FILE)

    def _on_StageFinished(self, event: StageFinished) -> None:  # noqa: N802
        step, self._passes = self._passes, self._passes + 1
        figures = {
            "pass/seconds": event.seconds,
            "pass/bytes_read": float(event.bytes_read),
            "pass/bytes_written": float(event.bytes_written),
            "pass/bytes_per_second": event.bytes_read / max(event.seconds, 1e-9),
        }
        self._log(figures, step)

    def _on_BlockScales(self, event: BlockScales) -> None:  # noqa: N802
        for tower, scales in event.scales.items():
            name = "lines/scale" if len(event.scales) == 1 else f"lines/scale/{tower}"
            for own in (name, f"{name}/{step_path(event.step)}") if event.step else (name,):
                self._metrics += [self._metric(own, scale, block) for block, scale in enumerate(scales)]

    def _on_SummaryComputed(self, event: SummaryComputed) -> None:  # noqa: N802
        step = step_path(event.node)
        plain = {k: float(v) for k, v in event.facts.items() if isinstance(v, int | float)}
        self._log({f"facts/{step}/{name}": value for name, value in plain.items()})
        self._sending().json(self.run_id, dict(event.facts), f"facts/{mlflow_name(step)}.json")

    def _on_MetricsComputed(self, event: MetricsComputed) -> None:  # noqa: N802
        self._log({f"{event.step}/{name}": value for name, value in event.metrics.items()})
        self._tags |= {f"metric.{name}": what for name, what in event.declared.items()}
        if event.cached:
            self._tags[f"cached.{event.step}"] = "true"

    def _on_SamplesJudged(self, event: SamplesJudged) -> None:  # noqa: N802
        content = {"step": event.step, "data": event.data, "samples": dict(event.samples)}
        self._sending().json(self.run_id, content, f"{SAMPLES_FOLDER}/{mlflow_name(step_path(event.step))}.json")

    def _on_ParamsChosen(self, event: ParamsChosen) -> None:  # noqa: N802
        self._chosen = dict(event.params)
        self._log({"tune/objective": event.objective})

    def _on_TrialStarted(self, event: TrialStarted) -> None:  # noqa: N802
        name, tags = f"trial-{event.number:03d}", {"mlflow.parentRunId": self.run_id}
        self._trial = self._made(name, tags, f"{self._record}/{event.number}" if self._record else "")
        sender = self._sending()
        sender.batch(self._trial, params=sender.params(self._trial, event.params))

    def _on_TrialFinished(self, event: TrialFinished) -> None:  # noqa: N802
        sender, figures = self._sending(), {**event.metrics, "tune/objective": event.objective}
        if event.share < 1:  # figures of a part of the samples are not to be compared with those of others
            figures = {"tune/objective_when_stopped": event.objective, "tune/share": event.share}
        metrics = [self._metric(name, figures[name], 0) for name in sorted(figures, key=means_first)]
        sender.batch(self._trial, metrics, tags=sender.tags({"cached": "true"} if event.cached else {}))
        self._end(self._trial, "FINISHED")
        self._trial = ""

    def _on_FileWritten(self, event: FileWritten) -> None:  # noqa: N802
        self._files += _rows(event)
        same = [one for one in self._files if one["node"] == event.node]
        told = f"{len(same)} files, see {FILES_FILE}" if len(same) > 1 else same[0]["digest"] or f"{event.nbytes} bytes"
        self._tags[f"file.{event.node}"] = told
        if event.reused:
            self._tags[f"cached.{event.node}"] = "true"

    def _on_LearningProgress(self, event: LearningProgress) -> None:  # noqa: N802
        self._log({f"learning/{step_path(event.step)}/loss": event.loss}, event.done)

    def _on_FigureDrawn(self, event: FigureDrawn) -> None:  # noqa: N802
        for path, text in event.texts.items():
            self._sending().text(self.run_id, text, f"{FIGURES_FOLDER}/{mlflow_name(path)}")

    def _on_TableComputed(self, event: TableComputed) -> None:  # noqa: N802
        rows = {"rows": [dict(row) for row in event.rows]}
        self._sending().json(self.run_id, rows, f"tables/{mlflow_name(event.name)}.json")

    def _on_RunFinished(self, event: RunFinished) -> None:  # noqa: N802
        if not self.run_id:
            return
        sender = self._sending()
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
                self._end(run, event.status)

    def _end(self, run: str, status: str) -> None:
        client = self._sending().client
        patiently(lambda: client.set_terminated(run, status, self._at))

    def _log(self, figures: Mapping[str, float], step: int = 0) -> None:
        self._metrics += [self._metric(name, figures[name], step) for name in sorted(figures, key=means_first)]

    def _metric(self, name: str, value: float, step: int) -> Metric:
        from mlflow.entities import Metric

        return Metric(mlflow_name(name), float(value), self._at, step)

    def _send_pending(self, params: Mapping[str, Any] | None = None) -> None:
        """A request that fails is not made again; the run's end is told whatever becomes of it."""
        sender = self._sending()
        metrics, self._metrics = self._metrics, []
        tags, self._tags = sender.tags(self._tags), {}
        sender.batch(self.run_id, metrics, sender.params(self.run_id, params or {}), tags)


def _rows(event: FileWritten) -> list[dict[str, Any]]:
    """Return what is recorded of each file; ``opened_by`` is the model folder or the index that it is a part of."""
    rows, files = [], event.files or (event.path,)
    for file in files:
        nbytes, digest = _measured(str(file))
        nbytes = event.nbytes if nbytes is None and len(files) == 1 else nbytes
        told = {"node": event.node, "path": str(file), "bytes": nbytes}
        part = {} if str(file) == str(event.path) else {"opened_by": str(event.path)}
        rows.append({**told, "digest": digest, "reused": event.reused, **part})
    return rows


def _measured(file: str) -> tuple[int | None, str]:
    """Return size and digest of a file; neither where it is elsewhere or unreadable: that is no failure of the store.

    A model card has no digest: it is written again once its model is evaluated.
    """
    path = Path(file)
    try:
        if "://" in file or not path.is_file():
            return None, ""
        nbytes = path.stat().st_size
        return nbytes, f"blake3:{file_digest(path)}" if nbytes and path.name != CARD else ""
    except (OSError, ValueError):
        return None, ""
