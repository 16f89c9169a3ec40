"""Declares the messages between a run and the process that records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.tracking.experiments import Target
from lines_pipeline.tracking.records import Entry, Head


@dataclass(frozen=True)
class Expect:
    """Says that a run will begin soon, unless a mistake is found before."""

    uri: str


@dataclass(frozen=True)
class Open:
    """Says that a run begins, where its record goes, and what MLflow reads from the environment.

    The process that records is older than the run, whose environment may have changed since: ``cache`` is the folder
    of records that holds now.
    ``target`` is given where the store is to be tried before the run reads anything, which is answered.
    """

    run: int
    uri: str
    head: Head
    folder: Path
    cache: Path
    environment: Mapping[str, str]
    target: Target | None = None


@dataclass(frozen=True)
class Send:
    """Sends an event of a run; ``RunFinished`` is the last."""

    run: int
    entry: Entry


@dataclass(frozen=True)
class Reply:
    """Says that an event has been dealt with (``complete``: the last one), or what went wrong.

    ``kept`` is the file with the record of a run that the store could not take.
    """

    run: int
    run_id: str = ""
    trouble: str = ""
    kept: str = ""
    complete: bool = False


def kept_words(path: str) -> str:
    """Return what users are told of a record that waits."""
    return f"the record of this run is kept in {path}; 'lines-pipeline sync' sends it"
