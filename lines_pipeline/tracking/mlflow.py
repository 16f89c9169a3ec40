"""Every run as an MLflow run: parameters, metrics, artifacts, tags; trials as nested child runs."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import (
    BlockScales,
    Event,
    FactsComputed,
    FileWritten,
    InputsIdentified,
    MetricsComputed,
    ParamsChosen,
    PassFinished,
    RunFinished,
    RunStarted,
    TableComputed,
    TrialFinished,
    TrialStarted,
)
from lines_pipeline.core.versions import package_versions
from lines_pipeline.tracking.stores import artifacts, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

MAX_PARAM_LENGTH = 6_000
"""MLflow's own bound on the value of a parameter."""
METRIC_BATCH, PARAM_BATCH, TAG_BATCH = 800, 100, 100
"""What goes into one request: MLflow's bounds, which for all together is 1000."""
_PACKAGES = ("lines-pipeline", "torch", "safetensors", "dask", "mlflow", "numpy")


class MlflowSink:
    """Records events in one run, from one thread of the driver. Raises ``TrackingError`` where the store fails.

    Metrics and tags of the run are sent by ``flush``, and before it ends: every request waits for a disk or a server.
    """

    def __init__(self, uri: str, new: bytes | None = None) -> None:
        """``new`` is the content of a database that may have to be made (``stores.prepare``)."""
        self.uri, self.run_id, self._new = uri, "", new
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._trial = ""
        self._chosen: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._passes = 0

    def __call__(self, event: Event) -> None:
        handler = getattr(self, f"_on_{type(event).__name__}", None)
        if handler is not None:
            self._guarded(lambda: handler(event))

    def flush(self) -> None:
        """Send what has come since the last time."""
        if self._metrics or self._tags:
            self._guarded(self._send_pending)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except TrackingError:
            raise
        except Exception as error:  # whatever a store or a network raises
            raise TrackingError(f"tracking store {self.uri}: {type(error).__name__}: {error}") from error

    def _on_RunStarted(self, event: RunStarted) -> None:  # noqa: N802
        self._client = client = connect(self.uri, self._new)
        self._new = None
        found = client.get_experiment_by_name(event.experiment)
        self._experiment = (
            found.experiment_id if found else client.create_experiment(event.experiment, artifacts(self.uri))
        )
        run = client.create_run(self._experiment, run_name=event.name, tags=dict(event.tags))
        self.run_id = run.info.run_id
        self._params = dict(event.params)
        for name, text in event.texts.items():
            client.log_text(self.run_id, text, name)

    def _on_InputsIdentified(self, event: InputsIdentified) -> None:  # noqa: N802
        self._tags |= {f"input.{_clean(step)}": digest for step, digest in event.digests.items()}

    def _on_PassFinished(self, event: PassFinished) -> None:  # noqa: N802
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
            for own in (name, f"{name}/{event.step}") if event.step else (name,):
                self._metrics += [_metric(own, scale, block) for block, scale in enumerate(scales)]

    def _on_FactsComputed(self, event: FactsComputed) -> None:  # noqa: N802
        assert self._client is not None
        plain = {k: float(v) for k, v in event.facts.items() if isinstance(v, int | float)}
        self._log({f"facts/{event.node}/{name}": value for name, value in plain.items()})
        self._client.log_dict(self.run_id, dict(event.facts), f"facts/{_clean(event.node)}.json")

    def _on_MetricsComputed(self, event: MetricsComputed) -> None:  # noqa: N802
        self._log({f"{event.step}/{name}": value for name, value in event.metrics.items()})
        if event.cached:
            self._tags[f"cached.{_clean(event.step)}"] = "true"

    def _on_ParamsChosen(self, event: ParamsChosen) -> None:  # noqa: N802
        self._chosen = dict(event.params)
        self._log({"tune/objective": event.objective})

    def _on_TrialStarted(self, event: TrialStarted) -> None:  # noqa: N802
        assert self._client is not None
        tags = {"mlflow.parentRunId": self.run_id}
        name = f"trial-{event.number:03d}"
        self._trial = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        self._send(self._trial, params=self._loggable(self._trial, event.params))

    def _on_TrialFinished(self, event: TrialFinished) -> None:  # noqa: N802
        assert self._client is not None
        figures = {**event.metrics, "tune/objective": event.objective}
        self._send(self._trial, metrics=[_metric(name, value, 0) for name, value in figures.items()])
        self._client.set_terminated(self._trial, "FINISHED")
        self._trial = ""

    def _on_FileWritten(self, event: FileWritten) -> None:  # noqa: N802
        self._tags[f"file.{_clean(event.node)}"] = str(event.path)
        if event.reused:
            self._tags[f"cached.{_clean(event.node)}"] = "true"

    def _on_TableComputed(self, event: TableComputed) -> None:  # noqa: N802
        assert self._client is not None
        self._client.log_dict(
            self.run_id, {"rows": [dict(row) for row in event.rows]}, f"tables/{_clean(event.name)}.json"
        )

    def _on_RunFinished(self, event: RunFinished) -> None:  # noqa: N802
        if self._client is None or not self.run_id:
            return
        try:
            if event.error:  # first, and by itself: whatever else is refused, why the run failed is recorded
                self._client.set_tag(self.run_id, "error", event.error[:5_000])
            self._log({"run/seconds": event.seconds})
            self._send_pending(self._loggable(self.run_id, {**self._params, **self._chosen}))
        finally:
            for run in filter(None, (self.run_id, self._trial)):
                self._client.set_terminated(run, event.status)

    def _log(self, figures: Mapping[str, float], step: int = 0) -> None:
        self._metrics += [_metric(name, value, step) for name, value in figures.items()]

    def _send_pending(self, params: Sequence[Param] = ()) -> None:
        """A request that fails is not made again; the run's end is told whatever becomes of it."""
        from mlflow.entities import RunTag

        metrics, self._metrics = self._metrics, []
        tags, self._tags = [RunTag(name, value) for name, value in self._tags.items()], {}
        self._send(self.run_id, metrics, params, tags)

    def _send(
        self, run: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        assert self._client is not None
        while metrics or params or tags:
            self._client.log_batch(run, metrics[:METRIC_BATCH], params[:PARAM_BATCH], tags[:TAG_BATCH])
            metrics, params, tags = metrics[METRIC_BATCH:], params[PARAM_BATCH:], tags[TAG_BATCH:]

    def _loggable(self, run: str, params: Mapping[str, Any]) -> list[Param]:
        """Parameters as MLflow takes them; values that are too long for it become artifacts."""
        from mlflow.entities import Param

        assert self._client is not None
        long = {name: str(value) for name, value in params.items() if len(str(value)) > MAX_PARAM_LENGTH}
        for name, text in long.items():
            self._client.log_text(run, text, f"params/{_clean(name)}.txt")
        return [
            Param(
                _clean(name),
                f"{len(long[name])} characters, see params/{_clean(name)}.txt" if name in long else str(value),
            )
            for name, value in params.items()
        ]


def environment_tags() -> dict[str, str]:
    """Versions of packages and Python, and the git commit where there is one."""
    versions = {"python": platform.python_version(), **package_versions(_PACKAGES)}
    return {f"version.{name}": version for name, version in versions.items()} | _git_tags()


def _git_tags() -> dict[str, str]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        tags = {"mlflow.source.git.commit": git("rev-parse", "HEAD")}
        return tags | ({"git.dirty": "true"} if git("status", "--porcelain", "--untracked-files=no") else {})
    except (OSError, subprocess.SubprocessError):
        return {}


def _clean(name: str) -> str:
    """A name as MLflow allows it."""
    allowed = re.sub(r"[^\w./ -]", "_", name.replace("[", "/").replace("]", ""))
    return "/".join(part for part in allowed.split("/") if part.strip("."))


def _metric(name: str, value: float, step: int) -> Metric:
    from mlflow.entities import Metric

    return Metric(_clean(name), float(value), int(time.time() * 1000), step)
