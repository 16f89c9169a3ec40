"""Keeps records of runs that a store could not take: in the run's own folder until ``sync`` sends them.

A record is a file of JSON lines: a head, then every event with its time. It holds no secrets: what comes from the
environment is there by name, and its store without credentials. While a run goes on, its record is locked.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from lines_pipeline.core import events
from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import Event, RunFinished, RunStarted
from lines_pipeline.io.entries import write_atomically
from lines_pipeline.zoo.entries import cache_folder

VERSION = 1
KILLED = RunFinished("KILLED", 0.0, "the run's process ended without a word")
_ID = re.compile(r"\w{1,64}", re.ASCII)
_KINDS = {kind.__name__: kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)}


@dataclass(frozen=True)
class Entry:
    """Holds an event, and its time in milliseconds since 1970."""

    at: int
    event: Event


@dataclass(frozen=True)
class Head:
    """Declares the first line of a record: its own id, the store without credentials, the run's id in it if known."""

    record: str
    uri: str
    run_id: str = ""
    version: int = VERSION


@dataclass(frozen=True)
class Record:
    """Holds a record that has been read."""

    path: Path
    head: Head
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return next(
            (entry.event.name for entry in self.entries if isinstance(entry.event, RunStarted)), self.head.record
        )


class Keeper:
    """Writes the record of one run, line by line."""

    def __init__(self, head: Head, folder: Path, entries: Iterable[Entry], cache: Path | None = None) -> None:
        """Begin with what has happened; in ``cache`` where the run's folder cannot be written. Raises ``OSError``.

        ``cache`` is the user's folder of records, where ``sync`` finds what waits; default ``records_folder()``.
        """
        cache = cache or records_folder()
        try:
            self._begin(head, folder, entries)
        except OSError:
            self._begin(head, cache, entries)
        write_atomically(_index(cache) / f"{head.record}.json", json.dumps(str(self.path)).encode())

    def _begin(self, head: Head, folder: Path, entries: Iterable[Entry]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder.absolute() / f"record-{head.record}.jsonl"
        self._file: IO[str] = self.path.open("w", encoding="utf-8")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write(asdict(head))
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Append an event."""
        self._write({"at": entry.at, "event": type(entry.event).__name__, "fields": asdict(entry.event)})

    def close(self) -> None:
        """Finish the record; ``sync`` may send it."""
        self._file.close()

    def _write(self, line: Any) -> None:
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()


def waiting(folders: Sequence[Path]) -> list[Path]:
    """Return the records in ``folders``; without any, those that this user's runs left, and that are still there."""
    if folders:
        return sorted({path.absolute() for folder in folders for path in folder.rglob("record-*.jsonl")})
    records = []
    for entry in sorted(_index().glob("*.json")):
        with suppress(OSError, ValueError):
            path = Path(json.loads(entry.read_bytes()))
            if path.is_file():
                records.append(path)
            else:  # deleted with its folder
                entry.unlink()
    return sorted(records)


def read_record(path: Path) -> Record:
    """Read a record from its file; ``TrackingError`` where it is none. A last line that was cut off is left out."""
    try:
        first, *lines = path.read_text(encoding="utf-8").split("\n")
        return Record(path, _head(first), tuple(_entries(lines)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TrackingError(
            f"{path}: cannot be read as the record of a run ({type(error).__name__}: {error})"
        ) from error


def _head(line: str) -> Head:
    head = Head(**json.loads(line))
    texts = all(isinstance(text, str) for text in (head.record, head.uri, head.run_id))
    if not texts or not _ID.fullmatch(head.record):
        raise ValueError("its first line does not say which run it is of")
    return head


def _entries(lines: Sequence[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines):
        try:
            read = json.loads(line)
        except ValueError:
            if number < len(lines) - 1:
                raise
            return
        kind = _KINDS[read["event"]]
        known = {field.name for field in fields(kind)}
        yield Entry(read["at"], kind(**{name: value for name, value in read["fields"].items() if name in known}))


def goes_on(path: Path) -> bool:
    """Return whether the run of a record is not over yet. Raises ``OSError`` where the record cannot be opened."""
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


def is_own(record: Record) -> bool:
    """Return whether a run of this user left a record where it lies."""
    try:
        return bool(json.loads((_index() / f"{record.head.record}.json").read_bytes()) == str(record.path.absolute()))
    except (OSError, ValueError):
        return False


def drop(record: Record) -> None:
    """Remove a record that was sent."""
    record.path.unlink(missing_ok=True)
    (_index() / f"{record.head.record}.json").unlink(missing_ok=True)


def records_folder() -> Path:
    """Return the folder of this user's cache for records."""
    return cache_folder() / "records"


def _index(cache: Path | None = None) -> Path:
    """Return the folder that notes where records lie, for ``sync`` to find them."""
    return (cache or records_folder()) / "index"
