"""Chooses the store that a run is recorded in, checks it, and connects to it."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.secrets import without_credentials
from lines_pipeline.io.temporaries import sweep_temporaries
from lines_pipeline.tracking.experiments import USUAL, Target
from lines_pipeline.tracking.loading import load_mlflow
from lines_pipeline.tracking.new_databases import new_database, put_in_place
from lines_pipeline.tracking.reaching import check_database, check_server

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"


def resolve_uri(explicit: str | None) -> str:
    """Return the store: what is given, else ``MLFLOW_TRACKING_URI``, else a database in the working directory.

    A database's path is made absolute: MLflow keeps connections by URI, whatever the working directory then is.
    """
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = database(uri)
    return uri if path is None else _SQLITE + str(path.resolve())


def database(uri: str) -> Path | None:
    """Return the file of a database store; None for other stores."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def check_reachable(uri: str, target: Target = USUAL) -> bool:
    """Raise ``TrackingError`` where a store plainly cannot be used; takes little time, and makes nothing.

    False where that cannot be told without MLflow: of other kinds of stores, and of runs to record into.
    """
    path = database(uri)
    try:
        if path is not None:
            check_database(uri, path, target)
        elif urlsplit(uri).scheme in ("http", "https"):
            check_server(uri, target)
    except TrackingError as error:
        raise TrackingError(f"tracking store {shown(uri)}: {error}") from error
    plain = (path is not None and "?" not in uri) or urlsplit(uri).scheme in ("http", "https")
    return plain and not target.run_id and not target.experiment_id


def prepare(uri: str) -> bytes | None:
    """Do early what the first ``connect`` to a database takes its time for; return the content of one still to be made.

    Makes no file. What does not work here is told by ``connect``.
    """
    path = database(uri)
    if path is None or "?" in uri:  # options, which are no part of the file's name
        return None
    if not path.is_file():
        return new_database()
    with suppress(TrackingError):
        connect(uri)
    return None


def connect(uri: str, new: bytes | None = None) -> MlflowClient:
    """Return a client of a store, with short time-outs; ``TrackingError`` where nothing answers.

    A database file that is not there is made of ``new``, else by MLflow.
    """
    load_mlflow()
    from mlflow import MlflowClient

    path = database(uri)
    try:
        with _alone(path):
            if path is not None:
                with suppress(OSError):  # the folder's file system may lack something; MLflow may still manage
                    sweep_temporaries(path.parent)
                    if new is not None and not path.exists():
                        put_in_place(new, path)
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except Exception as error:  # whatever a store or a network raises
        reason = without_credentials(str(error).partition("\n")[0])  # not the SQL below it
        raise TrackingError(f"tracking store {shown(uri)} cannot be used: {type(error).__name__}: {reason}") from error
    return client


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Lock a folder while a database file may have to be made there, in which two processes at once would fail."""
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
    """Return where a database store keeps artifacts: beside the database, whatever the working directory later is."""
    path = database(uri)
    return None if path is None else (path.resolve().parent / "mlruns").as_uri()


def ui_command(uri: str) -> str:
    """Return the command that shows the runs of a store, from any directory; credentials are not in it."""
    if uri.startswith(("http://", "https://")):
        return f"open {shown(uri)}"
    if shown(uri) != uri and uri == os.environ.get("MLFLOW_TRACKING_URI"):
        return 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
    return f"mlflow ui --backend-store-uri {shlex.quote(shown(uri))}"


def shown(uri: str) -> str:
    """Return a store's URI without credentials."""
    return without_credentials(uri)
