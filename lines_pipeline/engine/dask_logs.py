"""What Dask logs in the driver while it serves a run: with secrets by name only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lines_pipeline.core.secrets import Secrets

_NAMES = ("dask", "distributed", "tornado", "asyncio")
"""Dask's own loggers, and those of what runs its connections."""


@contextmanager
def hidden_logs(secrets: Secrets) -> Iterator[None]:
    """Hide values in what Dask logs meanwhile, whoever reads it."""
    with suppress(ImportError):  # told where it is used
        import distributed  # noqa: F401 (it makes its loggers)
    hiding = _Hiding(secrets)
    known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _NAMES]
    loggers = [logging.getLogger(name) for name in known]
    for logger in loggers:  # each of them: a filter is not asked about what the loggers below it take
        logger.addFilter(hiding)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(hiding)


class _Hiding(logging.Filter):
    """Changes records that show a secret, and lets all pass."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._hide = secrets.hide

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message, the traceback and the stack where they show one."""
        message = _message(record)
        if self._hide(message) != message:
            record.msg, record.args = self._hide(message), None
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            if self._hide(trace) != trace:
                record.exc_info, record.exc_text = None, self._hide(trace)
        record.stack_info = record.stack_info and self._hide(record.stack_info)
        return True


def _message(record: logging.LogRecord) -> str:
    """The text of a record; for one whose arguments do not fit, which ``logging`` tells itself, what it has of it."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        record.msg, record.args = f"{record.msg} {record.args}", None
        return str(record.msg)
