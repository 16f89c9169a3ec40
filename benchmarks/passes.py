"""The sweeps of a finished run of this project, as it recorded them in its MLflow store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_OF_LATEST_RUN = """
select key, value from metrics
where key in ('pass/seconds', 'pass/bytes_read', 'pass/bytes_written')
and run_uuid = (select run_uuid from runs order by start_time desc limit 1)
order by step
"""


@dataclass(frozen=True)
class Sweeps:
    """All sweeps of a run together, from their first read to their last write."""

    count: int
    seconds: float
    read_bytes: int
    written_bytes: int


def latest_sweeps(database: Path) -> Sweeps:
    """The sweeps of the run that was started last in this SQLite store."""
    figures: dict[str, list[float]] = {}
    with closing(sqlite3.connect(database)) as connection:
        for key, value in connection.execute(_OF_LATEST_RUN):
            figures.setdefault(key, []).append(value)
    seconds, read, written = (figures[f"pass/{name}"] for name in ("seconds", "bytes_read", "bytes_written"))
    return Sweeps(len(seconds), sum(seconds), int(sum(read)), int(sum(written)))
