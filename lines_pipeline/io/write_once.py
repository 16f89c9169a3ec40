"""Writes files of the cache once: whole or absent, with a note of the digest, checked before every use."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import EngineError
from lines_pipeline.io.entries import file_digest, read_entry, write_entry
from lines_pipeline.io.temporaries import temporary_path


def notes_path(path: Path) -> Path:
    """Return the entry beside a file that tells its size and digest."""
    return path.with_suffix(".json")


def noted(path: Path) -> dict[str, Any] | None:
    """Return the size and digest of a file for the entry beside it; None where it cannot be read."""
    try:
        return {"bytes": path.stat().st_size, "digest": file_digest(path)}
    except OSError:
        return None


def is_sound(path: Path, *, mark_used: bool = True) -> bool:
    """Return whether a file is there, and as it was written; reads all of it, and notes that it was used."""
    notes = read_entry(notes_path(path), mark_used=mark_used)
    return notes is not None and notes == noted(path)


def noted_once(path: Path) -> dict[str, Any] | None:
    """Return what ``noted`` does, but read a file that has not changed once a process."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _noted_once(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@cache
def _noted_once(path: Path, *identity: int) -> dict[str, Any] | None:
    return noted(path)


def written_once(path: Path, write: Callable[[Path], None], *, what: str) -> Path:
    """Return the file at ``path``, which ``write`` makes (given another path) where no sound one is there yet.

    Of runs that do so at once the first one's file stays, for a run notices when what it reads is replaced. Raises
    ``EngineError`` where the cache cannot be written; ``what`` says what was to be.
    """
    if is_sound(path):
        return path
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        write_entry(notes_path(path), noted(temporary))
        _adopt(temporary, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror
        raise EngineError(
            f"{path}: {what} cannot be written out there ({why}); free some space, "
            "or set XDG_CACHE_HOME to a folder that has it"
        ) from error
    finally:
        with suppress(OSError):  # a file in place of the folder, say: then nothing is left
            temporary.unlink(missing_ok=True)
    return path


def _adopt(temporary: Path, path: Path) -> None:
    """Give a complete file its name, unless a run beside this one has made the same file meanwhile and reads it."""
    try:
        os.link(temporary, path)
    except OSError:  # there is one, or the file system has no hard links
        if not is_sound(path):
            os.replace(temporary, path)
