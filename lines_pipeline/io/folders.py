"""Makes folders to write to: refuses what cannot be written, and removes what stayed empty."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

from lines_pipeline.core.errors import PlanError

Made = TypeVar("Made")


class _FullError(PlanError):
    """Says that a folder could be written if its disk were not full."""


def require_output(folder: Path) -> None:
    """Make a folder for results where there is none; ``PlanError`` where it cannot be made or written."""
    _require_writable(folder, "cannot be made or written", "choose another --out")


def require_cache(folder: Path) -> None:
    """Make a folder of the cache, as ``require_output`` does; a full disk will do where nothing has to be kept."""
    with suppress(_FullError):
        _require_writable(folder, "the cache cannot be written", "set XDG_CACHE_HOME to a folder that can be written")


def _require_writable(folder: Path, problem: str, remedy: str) -> None:
    try:
        make_inside(folder, partial(TemporaryFile, dir=folder)).close()
    except OSError as error:
        kind = _FullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else PlanError
        raise kind(f"{folder}: {problem} ({error.strerror}); {remedy}") from error


def make_inside(folder: Path, make: Callable[[], Made]) -> Made:
    """Return what ``make`` makes in a folder, which is made where there is none.

    Once more where the folder vanishes before anything is in it: ``removed_if_empty`` of a run beside this one.
    """
    with suppress(FileNotFoundError):
        folder.mkdir(parents=True, exist_ok=True)
        return make()
    folder.mkdir(parents=True, exist_ok=True)
    return make()


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a folder and its parents in the end where they are new and empty."""
    missing = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    try:
        yield
    finally:
        for parent in missing:
            with suppress(OSError):  # something is in there, or it was never made
                parent.rmdir()
