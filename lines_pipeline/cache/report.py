"""Reports on the node cache for users: lists it, makes room in it, and verifies it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lines_pipeline.cache.eviction import Entry, entries, prune, size_limit, verify
from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.zoo.entries import cache_folder


@dataclass(frozen=True)
class CacheReport:
    """Tells which entries a command found or removed; ``nbytes`` is what is left, ``limit`` what it may take."""

    folder: Path
    nbytes: int
    limit: int
    checked: int
    entries: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as ``--json`` prints it."""
        rows = [
            {
                "kind": entry.kind,
                "key": entry.key,
                "path": str(entry.path),
                "bytes": entry.nbytes,
                "used": _moment(entry.used),
            }
            for entry in self.entries
        ]
        limits = {"folder": str(self.folder), "bytes": self.nbytes, "limit": self.limit}
        return {**limits, "checked": self.checked, "entries": rows}


def cache_list() -> CacheReport:
    """List all entries, the least recently used first."""
    return _report(entries(_folder()))


def cache_prune(to: str | int | None = None) -> CacheReport:
    """Make room: entries go, the least recently used first, until the cache has at most ``to`` bytes (``4GB``, 0 for
    nothing at all; default: its limit). Gives what went. Raises ``PlanError`` for what is no size."""
    return _report(prune(_folder(), size_limit() if to is None else _parsed(to)))


def cache_verify() -> CacheReport:
    """Check every entry against its checksum. Gives those that were damaged: they are gone, and runs make them anew."""
    checked, damaged = verify(_folder())
    return _report(damaged, checked)


def _parsed(to: str | int) -> int:
    try:
        return 0 if str(to).strip() == "0" else parse_bytes(to)
    except ValueError as error:
        raise PlanError(f"--to: {error}") from error


def _report(listed: Iterable[Entry], checked: int = 0) -> CacheReport:
    nbytes = sum(entry.nbytes for entry in entries(_folder()))
    return CacheReport(_folder(), nbytes, size_limit(), checked, tuple(listed))


def _folder() -> Path:
    return cache_folder() / "nodes"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
