"""The runs of one tracking store: finds the one to go on with, makes new ones, and ends them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.secrets import without_credentials
from lines_pipeline.tracking.experiments import Target, experiment_id
from lines_pipeline.tracking.names import mlflow_name
from lines_pipeline.tracking.sending import Sender, patiently, plain_tags
from lines_pipeline.tracking.stores import artifacts, connect

RECORD_TAG = "lines_pipeline.record"
"""By this tag a run is found again when its record is sent later."""


class StoreRuns:
    """Connects to a store when it is first needed, and makes runs in one experiment of it."""

    def __init__(self, uri: str, new: bytes | None, *, record: str, resumes: bool) -> None:
        self.uri, self._new = uri, new
        self._record, self._resumes = record, resumes
        self._sender: Sender | None = None
        self._experiment = ""

    @property
    def sender(self) -> Sender:
        """Return what sends to the store; connect where that has not been done."""
        if self._sender is None:
            self._sender = Sender(patiently(lambda: connect(self.uri, self._new)))
            self._new = None
        return self._sender

    def refusals(self) -> list[str]:
        """Return what the store would not take since the last time, and why."""
        refusals: list[str] = []
        if self._sender is not None:
            refusals, self._sender.refusals = self._sender.refusals, refusals
        return refusals

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have all errors name the store, without credentials, as ``TrackingError``."""
        store = f"tracking store {without_credentials(self.uri)}"
        try:
            yield
        except TrackingError as error:
            raise error if str(error).startswith(store) else TrackingError(f"{store}: {error}") from error
        except Exception as error:  # whatever a store or a network raises
            reason = without_credentials(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            raise TrackingError(f"{store}: {reason}") from error

    def find(self, target: Target) -> Any:
        """Return the run to go on with, if there is one; else None, with the experiment for a new one."""
        client = self.sender.client
        if target.run_id:
            run = client.get_run(target.run_id)
            if run.info.lifecycle_stage == "deleted":
                raise TrackingError(f"the run {target.run_id} was deleted; bring it back, or unset MLFLOW_RUN_ID")
            self._experiment = run.info.experiment_id
            return run
        self._experiment = patiently(lambda: experiment_id(client, target, artifacts(self.uri)))
        return None

    def create(self, name: str, tags: Mapping[str, str], at: int, *, trial: str = "") -> str:
        """Return the id of a new run, or of the one that an earlier attempt to send the record has made."""
        client, record = self.sender.client, f"{self._record}{trial}" if self._record else ""
        if self._resumes:
            condition = f"tags.`{RECORD_TAG}` = '{record}'"
            for run in client.search_runs([self._experiment], condition, max_results=1):
                return str(run.info.run_id)
        own = plain_tags({**tags, **({RECORD_TAG: record} if record else {})})
        run = patiently(lambda: client.create_run(self._experiment, at, own, name))
        return str(run.info.run_id)

    def kept_params(self, run: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``params`` without those of which a run says something else already: that stays, and is a refusal."""
        sent = {param.key: param.value for param in self.sender.params(run.info.run_id, params)}
        kept = dict(params)
        for name in params:
            own = mlflow_name(name)
            value = run.data.params.get(own, sent[own])
            if value != sent[own]:
                message = f"the parameter {own} is {value} already, and stays so; here it is {sent[own]}"
                self.sender.refusals.append(message)
                del kept[name]
        return kept

    def end(self, run_id: str, status: str, at: int) -> None:
        """Tell how a run ended."""
        client = self.sender.client
        patiently(lambda: client.set_terminated(run_id, status, at))
