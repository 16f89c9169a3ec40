"""Checks whether a store can be used, in milliseconds and without MLflow, before a run reads anything."""

from __future__ import annotations

import base64
import http.client
import json
import os
import sqlite3
import ssl
from contextlib import closing, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.tracking.experiments import Target, deleted

SECONDS = 10
"""How long a server may take to answer."""
_KNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Codes by which servers refuse an experiment that is still to be made."""


def check_database(uri: str, path: Path, target: Target) -> None:
    """Raise ``TrackingError`` for a path where no database can be, or be made, and for a deleted experiment."""
    if not os.access(path.parent, os.W_OK):
        wrong = "cannot be written" if path.parent.is_dir() else "is not there"
        raise TrackingError(f"the folder {path.parent} {wrong}; choose a --tracking-uri")
    if not path.exists() or "?" in uri:
        return
    if not path.is_file():  # MLflow would try for minutes
        raise TrackingError(f"{path} is no file; give the path of a database file")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1)) as database:
            query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
            experiment = database.execute(query, [target.experiment]).fetchone()
    except sqlite3.OperationalError:  # no tables yet, or in use: MLflow waits for it
        return
    except sqlite3.DatabaseError as error:
        raise TrackingError(f"{path} is no database of MLflow ({error}); choose a --tracking-uri") from error
    if experiment is not None and experiment[1] == "deleted":
        raise deleted(target.experiment, str(experiment[0]))


def check_server(uri: str, target: Target) -> None:
    """Raise ``TrackingError`` for a server that does not answer as one of MLflow, and for a deleted experiment."""
    try:
        with urlopen(_question(uri, target), timeout=SECONDS, context=_trust()) as answer:
            body = answer.read(1_000_000)
    except HTTPError as error:
        with error:
            _check_refusal(error.code, error.read(100_000))
        return
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise TrackingError(f"no answer within {SECONDS} seconds") from error
        raise TrackingError(f"no server answers there ({reason})") from error
    with suppress(ValueError, KeyError, TypeError):
        experiment = json.loads(body)["experiment"]
        if experiment["lifecycle_stage"] == "deleted":
            raise deleted(experiment["name"], experiment["experiment_id"])
        return
    raise TrackingError("what answers there is no MLflow server; give the address of one")


def _question(uri: str, target: Target) -> Request:
    parts = urlsplit(uri)
    user, password = parts.username or "", parts.password or ""
    place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    query = urlencode({"experiment_name": target.experiment or "Default"})
    request = Request(f"{place}/api/2.0/mlflow/experiments/get-by-name?{query}")
    user = user or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    return request


def _trust() -> ssl.SSLContext | None:
    """Return a context that trusts servers as MLflow does; certificates of other kinds are left to it."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return ssl._create_unverified_context()
    authorities = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    return ssl.create_default_context(cafile=authorities) if authorities and os.path.isfile(authorities) else None


def _check_refusal(status: int, body: bytes) -> None:
    with suppress(ValueError, AttributeError):
        if json.loads(body).get("error_code") in _KNOWN:
            return
    if status in (408, 429):  # busy: MLflow asks again
        return
    if status in (401, 403):  # there are more ways to prove who asks than are known here
        if os.environ.get("MLFLOW_TRACKING_AUTH") or os.environ.get("MLFLOW_TRACKING_AWS_SIGV4"):
            return
        raise TrackingError(
            f"the server refuses to answer ({status}); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        )
    if status >= 500:
        raise TrackingError(f"the server fails to answer ({status})")
    raise TrackingError(f"what answers there is no MLflow server ({status}); give the address of one")
