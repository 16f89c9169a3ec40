"""The package's logger, and logs that show secrets by name only, whoever reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lines_pipeline.core.secrets import Secrets

LOG = logging.getLogger("lines_pipeline")
"""What a run does and why, for those who look for the reason of something. It has no handler of its own: ``run -v``
gives it one. All modules use this very logger, so that one filter hides what it must not show."""


@contextmanager
def hiding(secrets: Secrets) -> Iterator[None]:
    """Hide values in the errors that are raised meanwhile, and in what the package logs."""
    with hidden_logs(secrets, [LOG]), secrets.hiding():
        yield


@contextmanager
def hidden_logs(secrets: Secrets, loggers: Iterable[logging.Logger]) -> Iterator[None]:
    """Hide values in what these loggers take meanwhile. Loggers below them are not asked: name each."""
    filtered, hidden = tuple(loggers), _Hiding(secrets)
    for logger in filtered:
        logger.addFilter(hidden)
    try:
        yield
    finally:
        for logger in filtered:
            logger.removeFilter(hidden)


class _Hiding(logging.Filter):
    """Hides secrets in log records, and drops no record."""

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
    """Return the text of a record; of one whose arguments do not fit, which ``logging`` tells itself, what it has."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        record.msg, record.args = f"{record.msg} {record.args}", None
        return str(record.msg)
