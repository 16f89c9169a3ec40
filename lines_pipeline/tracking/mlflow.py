"""Every run as an MLflow run: parameters, metrics, artifacts, tags; trials as nested child runs."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

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

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"
_PORTS = {"http": 80, "https": 443}
MAX_PARAM_LENGTH = 6_000
"""MLflow's own bound on the value of a parameter."""
METRIC_BATCH, PARAM_BATCH = 1_000, 100
_PACKAGES = ("lines-pipeline", "torch", "safetensors", "dask", "mlflow", "numpy")


def resolve_uri(explicit: str | None) -> str:
    """The store: what is given, else ``MLFLOW_TRACKING_URI``, else a database in the working directory.

    A database's path is made absolute: MLflow keeps connections by URI, whatever the working directory then is.
    """
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = database(uri)
    return uri if path is None else _SQLITE + str(path.resolve())


def database(uri: str) -> Path | None:
    """The file of a database store; None of other stores."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def check_reachable(uri: str) -> None:
    """Raise ``TrackingError`` where a store plainly cannot be used; takes no time, and makes nothing."""
    path = database(uri)
    if path is not None:
        if not os.access(path.parent, os.W_OK):
            raise TrackingError(f"tracking store {uri}: the folder {path.parent} is missing, or cannot be written")
        return
    server = urlsplit(uri)
    if server.scheme in _PORTS and server.scheme not in getproxies() and server.hostname:
        try:
            socket.create_connection((server.hostname, server.port or _PORTS[server.scheme]), timeout=10).close()
        except OSError as error:
            raise TrackingError(f"tracking store {uri}: no server answers there ({error})") from error


class MlflowSink:
    """Records events in one run, from one thread of the driver. Raises ``TrackingError`` where the store fails."""

    def __init__(self, uri: str) -> None:
        self.uri, self.run_id = uri, ""
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._trial = ""
        self._chosen: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        self._passes = 0

    def __call__(self, event: Event) -> None:
        handler = getattr(self, f"_on_{type(event).__name__}", None)
        if handler is None:
            return
        try:
            handler(event)
        except TrackingError:
            raise
        except Exception as error:  # whatever a store or a network raises
            raise TrackingError(f"tracking store {self.uri}: {type(error).__name__}: {error}") from error

    def _on_RunStarted(self, event: RunStarted) -> None:  # noqa: N802
        self._client = client = connect(self.uri)
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
        assert self._client is not None
        for step, digest in event.digests.items():
            self._client.set_tag(self.run_id, f"input.{_clean(step)}", digest)

    def _on_PassFinished(self, event: PassFinished) -> None:  # noqa: N802
        step, self._passes = self._passes, self._passes + 1
        figures = {
            "pass/seconds": event.seconds,
            "pass/bytes_read": float(event.bytes_read),
            "pass/bytes_written": float(event.bytes_written),
            "pass/bytes_per_second": event.bytes_read / max(event.seconds, 1e-9),
        }
        self._log(self.run_id, figures, step)

    def _on_BlockScales(self, event: BlockScales) -> None:  # noqa: N802
        assert self._client is not None
        for tower, scales in event.scales.items():
            name = "lines/scale" if len(event.scales) == 1 else f"lines/scale/{tower}"
            metrics = [_metric(name, scale, block) for block, scale in enumerate(scales)]
            self._client.log_batch(self.run_id, metrics=metrics)
            if event.step:
                own = [_metric(f"{name}/{event.step}", scale, block) for block, scale in enumerate(scales)]
                self._client.log_batch(self.run_id, metrics=own)

    def _on_FactsComputed(self, event: FactsComputed) -> None:  # noqa: N802
        assert self._client is not None
        plain = {k: float(v) for k, v in event.facts.items() if isinstance(v, int | float)}
        self._log(self.run_id, {f"facts/{event.node}/{name}": value for name, value in plain.items()})
        self._client.log_dict(self.run_id, dict(event.facts), f"facts/{_clean(event.node)}.json")

    def _on_MetricsComputed(self, event: MetricsComputed) -> None:  # noqa: N802
        assert self._client is not None
        self._log(self.run_id, {f"{event.step}/{name}": value for name, value in event.metrics.items()})
        if event.cached:
            self._client.set_tag(self.run_id, f"cached.{_clean(event.step)}", "true")

    def _on_ParamsChosen(self, event: ParamsChosen) -> None:  # noqa: N802
        self._chosen = dict(event.params)
        self._log(self.run_id, {"tune/objective": event.objective})

    def _on_TrialStarted(self, event: TrialStarted) -> None:  # noqa: N802
        assert self._client is not None
        tags = {"mlflow.parentRunId": self.run_id}
        name = f"trial-{event.number:03d}"
        self._trial = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        self._log_params(self._trial, event.params)

    def _on_TrialFinished(self, event: TrialFinished) -> None:  # noqa: N802
        assert self._client is not None
        self._log(self._trial, {**event.metrics, "tune/objective": event.objective})
        self._client.set_terminated(self._trial, "FINISHED")
        self._trial = ""

    def _on_FileWritten(self, event: FileWritten) -> None:  # noqa: N802
        assert self._client is not None
        self._client.set_tag(self.run_id, f"file.{_clean(event.node)}", str(event.path))
        if event.reused:
            self._client.set_tag(self.run_id, f"cached.{_clean(event.node)}", "true")

    def _on_TableComputed(self, event: TableComputed) -> None:  # noqa: N802
        assert self._client is not None
        self._client.log_dict(
            self.run_id, {"rows": [dict(row) for row in event.rows]}, f"tables/{_clean(event.name)}.json"
        )

    def _on_RunFinished(self, event: RunFinished) -> None:  # noqa: N802
        if self._client is None or not self.run_id:
            return
        self._log_params(self.run_id, {**self._params, **self._chosen})
        if event.error:
            self._client.set_tag(self.run_id, "error", event.error[:5_000])
        self._log(self.run_id, {"run/seconds": event.seconds})
        if self._trial:
            self._client.set_terminated(self._trial, event.status)
        self._client.set_terminated(self.run_id, event.status)

    def _log(self, run: str, figures: Mapping[str, float], step: int = 0) -> None:
        assert self._client is not None
        metrics = [_metric(name, value, step) for name, value in figures.items()]
        for start in range(0, len(metrics), METRIC_BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + METRIC_BATCH])

    def _log_params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        assert self._client is not None
        long = {name: str(value) for name, value in params.items() if len(str(value)) > MAX_PARAM_LENGTH}
        for name, text in long.items():
            self._client.log_text(run, text, f"params/{_clean(name)}.txt")
        logged = [
            Param(
                _clean(name),
                f"{len(long[name])} characters, see params/{_clean(name)}.txt" if name in long else str(value),
            )
            for name, value in params.items()
        ]
        for start in range(0, len(logged), PARAM_BATCH):
            self._client.log_batch(run, params=logged[start : start + PARAM_BATCH])


def connect(uri: str) -> MlflowClient:
    """A client of a store, with short time-outs; ``TrackingError`` where nothing answers."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import logging

    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _alone(uri):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except Exception as error:  # whatever a store or a network raises
        what = str(error).partition("\n")[0]  # not the SQL below it
        raise TrackingError(f"tracking store {uri} cannot be used: {type(error).__name__}: {what}") from error
    return client


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """While a database file may have to be made, in which two processes at once would fail: locks its folder."""
    path = database(uri)
    if path is None:
        yield
        return
    descriptor = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def artifacts(uri: str) -> str | None:
    """Where a database store keeps artifacts: beside the database, whatever the working directory later is."""
    path = database(uri)
    return None if path is None else (path.resolve().parent / "mlruns").as_uri()


def ui_command(uri: str) -> str:
    """The command that shows the runs of a store, from any directory."""
    if uri.startswith(("http://", "https://")):
        return f"open {uri}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


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
