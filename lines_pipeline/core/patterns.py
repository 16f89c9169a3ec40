"""Regular expressions that users write: what Python's ``re`` takes, within a time limit.

A pattern is compiled by ``re``, whose rules hold, and carried out by ``regex``, which can be stopped: ``(a+)+$`` over
long names would take longer than anybody lives.
"""

from __future__ import annotations

import re
import time
import warnings
from typing import Any

import regex

from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.printable import shortened

LIMIT_SECONDS = 3.0
"""Time of a processor that one pattern may take over all names it is used on."""
_LEAST_SECONDS = 0.001
"""What remains for each name when the time is over: enough for any match that does not go astray."""


class PatternError(LinesError):
    """A regular expression that is none, or takes too long."""


class Pattern:
    """A regular expression with a budget of time for all of its uses together."""

    def __init__(self, text: str, limit_seconds: float = LIMIT_SECONDS) -> None:
        self.text = text
        self._checked = _compiled(text)
        self._pattern = _stoppable(text)
        self._seconds = limit_seconds

    @property
    def groups(self) -> int:
        """Return how many groups the expression has."""
        return self._checked.groups

    def check_replacement(self, replacement: str) -> None:
        """Raise ``PatternError`` for a replacement that ``sub`` cannot fill in."""
        try:
            self._checked.sub(replacement, "")
        except (re.error, IndexError, OverflowError) as error:
            message = f"expected a replacement for '{shortened(self.text)}', found '{shortened(replacement)}': {error}"
            raise PatternError(message) from error

    def search(self, name: str) -> Any:
        """Return the first match anywhere in ``name``, or None."""
        return self._timed(lambda timeout: self._pattern.search(name, timeout=timeout), name)

    def sub(self, replacement: str, name: str) -> str:
        """Return ``name`` with every match replaced, as ``re.sub`` does."""
        return str(self._timed(lambda timeout: self._pattern.sub(replacement, name, timeout=timeout), name))

    def _timed(self, use: Any, name: str) -> Any:
        started = time.thread_time()
        try:
            return use(max(self._seconds, _LEAST_SECONDS))
        except TimeoutError as error:
            raise PatternError(
                f"the regular expression '{shortened(self.text)}' takes too long, as on '{shortened(name)}': "
                "write it without repetitions inside repetitions"
            ) from error
        finally:
            self._seconds -= time.thread_time() - started


def _compiled(text: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # what a later Python would read otherwise
            return re.compile(text)
    except (re.error, FutureWarning, OverflowError, RecursionError, MemoryError) as error:
        raise PatternError(f"expected a regular expression, found '{shortened(text)}': {error}") from error


def _stoppable(text: str) -> Any:
    try:
        return regex.compile(_with_literal_braces(text), regex.VERSION0)
    except (regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise PatternError(f"expected a regular expression, found '{shortened(text)}': {error}") from error


_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\{|[^\\\[{]+|.", re.DOTALL)


def _with_literal_braces(text: str) -> str:
    """Return the pattern with braces escaped that are no counts: ``regex`` would take ``{e<=1}`` for fuzzy matching."""
    return "".join(r"\{" if token == "{" else token for token in _TOKEN.findall(text))
