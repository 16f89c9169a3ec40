"""Standard streams of a command whose reader may go away: a run does not end because nobody listens any more."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from lines_pipeline.core.errors import EngineError


class _Unbroken(io.FileIO):
    """Writes to a descriptor, and takes everything from the moment on when its reader is gone.

    Of standard output, other failures (a full disk) are told once, as ``EngineError``: results were to go there.
    """

    def __init__(self, descriptor: int, *, tells: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._tells = tells

    def write(self, content: Any, /) -> int:
        """Write bytes; drop them where nobody reads the stream any more."""
        try:
            return super().write(content)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._tells and not isinstance(error, BrokenPipeError):
                raise EngineError(f"standard output cannot be written ({error.strerror})") from error
            return memoryview(content).nbytes


def keep_streams() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that outlive their readers; open closed ones to nowhere."""
    for descriptor in (0, 1, 2):  # files opened later would get a number that others write to
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def _stream(descriptor: int, old: Any) -> io.TextIOWrapper:
    raw = _Unbroken(descriptor, tells=descriptor == 1)
    encoding, errors = getattr(old, "encoding", "utf-8"), getattr(old, "errors", "backslashreplace")
    by_line = descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=by_line)
