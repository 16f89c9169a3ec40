"""Sends parameters, metrics, tags and texts of one run to MLflow, within its bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lines_pipeline.tracking.names import mlflow_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

Made = TypeVar("Made")

MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 6_000, 5_000
"""MLflow's own bounds on values; that on tags is 8000 in newer servers."""
METRIC_BATCH, PARAM_BATCH, TAG_BATCH = 800, 100, 100
"""The most entries of one request: MLflow's bounds, of which that on all together is 1000."""
BATCH_CHARACTERS = 100_000
"""The most characters of parameters in one request: as JSON, MLflow takes 1,000,000 bytes."""
LOCK_SECONDS = 30.0
"""How long a database may be in use by others."""
_BEGINNING = 200
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


class Sender:
    """Sends records to a store; ``refusals`` say what the store would not take, and why."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.refusals: list[str] = []

    def batch(
        self, run: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """Log all of it, in as few requests as MLflow allows; what the store refuses becomes a refusal."""
        batches = list(_param_batches(params))
        while metrics or batches or tags:
            self._log(run, metrics[:METRIC_BATCH], batches[0] if batches else (), tags[:TAG_BATCH])
            metrics, batches, tags = metrics[METRIC_BATCH:], batches[1:], tags[TAG_BATCH:]

    def _log(self, run: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            patiently(lambda: self.client.log_batch(run, metrics, params, tags))
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            parts = [f"{len(kind)} {name}" for name, kind in (("metrics", metrics), ("parameters", params)) if kind]
            parts += [f"{len(tags)} tags"] if tags else []
            self.refusals.append(f"{', '.join(parts)}: {str(error).partition(chr(10))[0]}")

    def params(self, run: str, params: Mapping[str, Any]) -> list[Param]:
        """Return parameters as MLflow takes them: of long values the beginning; log the whole as an artifact."""
        from mlflow.entities import Param

        sent = []
        for name, value in params.items():
            own, text = mlflow_name(name), str(value)
            if len(text) > MAX_PARAM_LENGTH:
                self.text(run, text, f"params/{own}.txt")
                text = f"{text[:_BEGINNING]}... ({len(text)} characters, see params/{own}.txt)"
            sent.append(Param(own, text))
        return sent

    def tags(self, tags: Mapping[str, str]) -> list[RunTag]:
        """Return tags as MLflow takes them."""
        from mlflow.entities import RunTag

        return [RunTag(name, text) for name, text in plain_tags(tags).items()]

    def text(self, run: str, text: str, name: str) -> None:
        """Log a text as an artifact."""
        patiently(lambda: self.client.log_text(run, text, name))

    def json(self, run: str, content: Any, name: str) -> None:
        """Log a value that JSON can hold as an artifact."""
        patiently(lambda: self.client.log_dict(run, content, name))


def plain_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with names that MLflow can hold; values that are too long end in ``...``."""
    cut = {
        name: text if len(text) <= MAX_TAG_LENGTH else f"{text[: MAX_TAG_LENGTH - 3]}..." for name, text in tags.items()
    }
    return {mlflow_name(name): text for name, text in cut.items()}


def _param_batches(params: Sequence[Param]) -> Iterator[Sequence[Param]]:
    batch: list[Param] = []
    size = 0
    for param in params:
        if batch and (len(batch) == PARAM_BATCH or size + len(param.value) > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(param)
        size += len(param.value)
    if batch:
        yield batch


def patiently(act: Callable[[], Made]) -> Made:
    """Return what ``act`` gives; repeat it for a while where other processes lock a database of SQLite."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return act()
        except Exception as error:  # SQLAlchemy's, or MLflow's with its text
            if "database is locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
