"""Separates the program from its compilers: whatever goes wrong behind the boundary is a ``CompilerFailure``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lines_pipeline.core.printable import shortened

_MAX_REASON = 200


class CompilerFailure(Exception):
    """A trace, a compiler or the runtime failed; the message names the reason. The interpreter can do the work."""


class Untraceable(Exception):
    """An op does something to a block that has no instruction. That is no failure: the interpreter does the op."""


@contextmanager
def boundary() -> Iterator[None]:
    """Raise ``CompilerFailure`` for whatever goes wrong within."""
    try:
        yield
    except (CompilerFailure, Untraceable):
        raise
    except Exception as error:  # Numba and llvmlite raise what they like, and rename their internals
        raise CompilerFailure(shortened(f"{type(error).__name__}: {error}", _MAX_REASON)) from error
