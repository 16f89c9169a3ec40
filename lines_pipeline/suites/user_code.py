"""Runs the Python that a suite names, and tells its errors as the user's, with the line of the user's file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import EvalError, LinesError
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.core.user_code.running import at_home, module_of, to_stderr, what_was_raised


def call(code: Code, suite: Path, where: str = "", /, *values: Any, **arguments: Any) -> Any:
    """Return what the user's callable gives. Raises ``EvalError`` where it, or what it imports, raises anything.

    ``where`` leads the error's message: for which task it was called.
    """
    with told_as_users(suite, f"{where}{code.what} {code.text}", code), at_home(code):
        value: Any = module_of(code)
        for part in code.name.split("."):
            value = getattr(value, part)
        return value(*values, **arguments)


@contextlib.contextmanager
def told_as_users(suite: Path, lead: str, code: Code | None) -> Iterator[None]:
    """Turn errors of the user's code into ``EvalError``, and send what it prints to stderr."""
    try:
        with to_stderr():
            yield
    except LinesError:
        raise
    except (Exception, SystemExit) as error:  # the door of code that is not ours
        raise EvalError(f"{suite}: {lead} raised {what_was_raised(error, code)}") from error
