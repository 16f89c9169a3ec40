"""How MLflow is loaded: quiet, with short time-outs, and without what is for models where runs are only recorded."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_FOR_MODELS = ("pandas", "numpy", "pyarrow", "scipy")
"""What ``mlflow-skinny``, which records runs as well as ``mlflow`` does, is installed without."""


def load_mlflow() -> None:
    """Import MLflow."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow  # noqa: F401

    for name in ("alembic", "mlflow.store.db.utils", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def load_skinny_mlflow() -> None:
    """Import MLflow as ``mlflow-skinny`` would be, in two thirds of the time; for processes that only record."""
    try:
        with _hidden(_FOR_MODELS):
            load_mlflow()
    except ImportError:  # a version that needs one of them
        for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
            del sys.modules[name]
        load_mlflow()


@contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Packages cannot be imported meanwhile: Python takes None in ``sys.modules`` for that."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
