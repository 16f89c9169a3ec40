"""Loads MLflow quietly, with short time-outs, and without its parts for models where runs are only recorded."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_FOR_MODELS = ("pandas", "numpy", "pyarrow", "scipy")
"""The modules that ``mlflow-skinny``, which records runs as well as ``mlflow`` does, is installed without."""


OWN_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""How MLflow behaves where the user says nothing else: a server that fails is given up after half a minute."""


def load_mlflow() -> None:
    """Import MLflow."""
    for name, value in OWN_SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("alembic", "mlflow.store.db.utils", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def load_skinny_mlflow() -> None:
    """Import MLflow as ``mlflow-skinny`` would be, in two thirds of the time; for processes that only record.

    Where there are plugins it is imported whole: MLflow imports them with itself, and goes on without those that fail.
    """
    if _has_plugins():
        load_mlflow()
        return
    try:
        with _hidden(_FOR_MODELS):
            load_mlflow()
    except Exception:  # a missing package shows as any error, and what is wrong without hiding is raised just below
        for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
            del sys.modules[name]
        load_mlflow()


def _has_plugins() -> bool:
    """Return whether packages other than MLflow add to it. Told by modules: to read their packages takes 20 ms more."""
    from importlib.metadata import entry_points  # not for the run, which imports this module early

    points = entry_points()
    own = [group for group in points.groups if group.startswith("mlflow.")]
    return any(entry.value.partition(".")[0] != "mlflow" for group in own for entry in points.select(group=group))


@contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Keep packages from being imported meanwhile: Python takes None in ``sys.modules`` for that."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
