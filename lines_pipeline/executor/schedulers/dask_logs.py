"""What Dask logs in the driver while it serves a run: with secrets by name only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lines_pipeline.core.logs import hidden_logs
from lines_pipeline.core.secrets import Secrets

_NAMES = ("dask", "distributed", "tornado", "asyncio")
"""Dask's own loggers, and those of what runs its connections."""


@contextmanager
def hidden_dask_logs(secrets: Secrets) -> Iterator[None]:
    """Hide values in what Dask logs meanwhile."""
    with suppress(ImportError):  # told where it is used
        import distributed  # noqa: F401 (it makes its loggers)
    known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _NAMES]
    with hidden_logs(secrets, map(logging.getLogger, known)):
        yield
