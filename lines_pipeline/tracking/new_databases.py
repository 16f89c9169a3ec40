"""Makes new databases by MLflow's own migrations in memory, where they wait for no disk; puts them in place whole."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import closing, suppress
from pathlib import Path

from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.tracking.loading import load_mlflow


def new_database() -> bytes | None:
    """Return the content of a database without runs; None where this MLflow or this SQLite cannot make one in memory.

    On a disk, each of some hundred steps is a transaction that waits until it is written: seconds on a busy machine.
    """
    load_mlflow()
    from mlflow import MlflowClient

    name = f"file:{uuid.uuid4().hex}?mode=memory&cache=shared"
    # Broad, since MLflow, Alembic, SQLAlchemy and SQLite each raise their own, and no error is lost: where there is no
    # content MLflow makes the database on the disk, and what fails there too is told.
    with suppress(Exception), closing(sqlite3.connect(name, uri=True)) as memory:
        MlflowClient(tracking_uri=f"sqlite:///{name}&uri=true").search_experiments(max_results=1)
        (has_tables,) = memory.execute("SELECT count(*) FROM alembic_version").fetchone()
        return memory.serialize() if has_tables else None
    return None


def put_in_place(content: bytes, path: Path) -> None:
    """Write a database where there is none; one that another program has made meanwhile stays.

    Nothing is written beside the journal of a database that was deleted: SQLite would play it into this one. It drops
    such a journal where it makes the database itself. A process killed after the link leaves a second name of the
    database, which ``sweep_temporaries`` removes.
    """
    if any(path.with_name(path.name + end).exists() for end in ("-journal", "-wal")):
        return
    temporary = temporary_path(path)
    try:
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "wb") as file:  # SQLite's own mode
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
