"""Keeps the node cache within its size: lists, removes and verifies its entries."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.io.entries import read_entry
from lines_pipeline.io.temporaries import sweep_temporaries
from lines_pipeline.io.write_once import is_sound, notes_path

VALUES, SPOOL = "values", "spool"
KINDS = ("accuracies", "digests", "files", "metrics", "scores", "stats", SPOOL, VALUES)
"""``accuracies`` were the scores of earlier versions: they are never read, and go in time."""
LIMIT_VARIABLE = "LINES_PIPELINE_CACHE_BYTES"
DEFAULT_LIMIT = "50GB"


@dataclass(frozen=True)
class Entry:
    """Describes one entry: its kind and key, its file, bytes on disk, and its last use (seconds since 1970)."""

    kind: str
    key: str
    path: Path
    nbytes: int
    used: float


def size_limit() -> int:
    """Return the bytes that the cache may take. Raises ``PlanError`` where the environment asks for what is no size."""
    text = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise PlanError(f"{LIMIT_VARIABLE}: {error}") from error


def entries(folder: Path) -> list[Entry]:
    """Return all entries of the cache, the least recently used first."""
    all_entries = [entry for kind in KINDS for entry in _entries(folder, kind)]
    return sorted(all_entries, key=lambda entry: (entry.used, entry.kind, entry.key))


def _entries(folder: Path, kind: str) -> Iterator[Entry]:
    suffix = ".safetensors" if kind in (VALUES, SPOOL) else ".json"
    for path in sorted((folder / kind).glob(f"*{suffix}")):
        with suppress(FileNotFoundError):
            status, notes = path.stat(), notes_path(path)
            used, nbytes = status.st_mtime, status.st_size
            if kind in (VALUES, SPOOL) and notes.exists():
                used, nbytes = notes.stat().st_mtime, nbytes + notes.stat().st_size
            yield Entry(kind, path.stem, path, nbytes, used)


def prune(folder: Path, limit: int) -> list[Entry]:
    """Remove entries, the least recently used first, until the cache has at most ``limit`` bytes; gives what went.

    What a run holds stays. Files that killed runs left half-written go in any case.
    """
    for kind in KINDS:
        sweep_temporaries(folder / kind)
    for beside in (*folder.glob(f"{VALUES}/*.json"), *folder.glob(f"{SPOOL}/*.json"), *folder.glob("*/*.lock")):
        if not (value := beside.with_suffix(".safetensors")).exists():
            remove(value)
    present, removed = entries(folder), []
    nbytes = sum(entry.nbytes for entry in present)
    for entry in present:
        if nbytes <= limit:
            break
        if remove(entry.path):
            removed.append(entry)
            nbytes -= entry.nbytes
    return removed


def verify(folder: Path) -> tuple[int, list[Entry]]:
    """Check every entry against its digest; return how many there are, and those that were damaged and are gone."""
    present = entries(folder)
    return len(present), [entry for entry in present if not _is_sound(entry) and remove(entry.path, held=True)]


def _is_sound(entry: Entry) -> bool:
    if entry.kind not in (VALUES, SPOOL):
        return read_entry(entry.path, mark_used=False) is not None
    return is_sound(entry.path, mark_used=False)


def remove(path: Path, *, held: bool = False) -> bool:
    """Remove an entry's file, one that a run holds only where that is asked for; return whether it is gone."""
    lock = path.with_suffix(".lock")
    try:
        if path.parent.name not in (VALUES, SPOOL):
            path.unlink(missing_ok=True)
            return True
        with lock.open("ab") as file:
            if not held:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, lock):
                for file_beside in (path, notes_path(path), lock):
                    file_beside.unlink(missing_ok=True)
    except OSError:  # a run holds it, there are no locks here, or it is another user's
        return False
    return True


def hold(path: Path) -> BinaryIO | None:
    """Return an open file that keeps a value or a spooled file from being removed until it is closed.

    None where the cache's folder is not there. On file systems without locks nothing is kept, and nothing removed.
    """
    lock = path.with_suffix(".lock")
    while True:
        try:
            file = lock.open("ab")
        except OSError:
            return None
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        if _is_at(file, lock):
            return file
        file.close()


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Return whether an open file still has its name, and was not removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
