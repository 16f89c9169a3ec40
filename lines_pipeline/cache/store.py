"""Keeps step values, statistics and metrics by content key, for all runs, recipes and processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lines_pipeline.cache.eviction import entries, prune
from lines_pipeline.cache.values import CachedValues
from lines_pipeline.core.logs import LOG
from lines_pipeline.core.secrets import NO_SECRETS, Secrets, by_value
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.digests import DigestStore, Known
from lines_pipeline.io.entries import read_entry, write_entry

FILES = "files"
"""The kind of entry that holds paths: what comes from the environment is in them by name."""


class NodeCache:
    """Reads and writes entries, which are whole or absent; damaged ones count as absent. ``values`` has the large ones.

    With ``reading`` off, only digests are looked up. Small results that cannot be written, because the disk is full,
    say, are not kept: ``unwritten`` then tells why.
    """

    def __init__(self, folder: Path, *, reading: bool = True, secrets: Secrets = NO_SECRETS) -> None:
        self.folder, self._reading, self.secrets = folder, reading, secrets
        self.values = CachedValues(folder, reading=reading)
        self.unwritten = ""
        self._told: set[tuple[str, str, str]] = set()
        self._digests = DigestStore(folder / "digests")
        self.spool = folder / "spool"

    def close(self) -> None:
        """Let go of what was held; other runs may remove it now."""
        self.values.release()

    def get(self, kind: str, key: str | None) -> Any:
        """Return a remembered result (``stats``, ``scores``, ``files``), or None."""
        remembered = None if key is None or not self._reading else read_entry(self._path(kind, key))
        if key is not None:
            self._tell(kind, key, "not there" if remembered is None else "found")
        return _mapped(by_value, remembered) if kind == FILES else remembered

    def _tell(self, kind: str, key: str, outcome: str) -> None:
        """Log the outcome of a look-up once: plans and runs look up an entry several times."""
        if (kind, key, outcome) not in self._told:
            self._told.add((kind, key, outcome))
            LOG.debug("cache: %s of %s: %s", kind, key, outcome)

    def put(self, kind: str, key: str | None, result: Any) -> None:
        """Remember a result that JSON can hold; a result without a key is not kept."""
        if key is not None:
            plain = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]
            with self._tolerated():
                write_entry(self._path(kind, key), _mapped(self.secrets.by_name, plain) if kind == FILES else plain)

    def digest(self, checkpoint: Checkpoint) -> Known | None:
        """Return what an earlier run learnt of a checkpoint's content."""
        return self._digests.get(checkpoint)

    def put_digest(self, checkpoint: Checkpoint, known: Known) -> None:
        """Remember what this run learnt of it."""
        with self._tolerated():
            self._digests.put(checkpoint, known)

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.unwritten = self.unwritten or f"{self.folder}: {error.strerror}"

    @property
    def nbytes(self) -> int:
        """Return the bytes of all entries."""
        return sum(entry.nbytes for entry in entries(self.folder))

    def make_room(self, nbytes: int) -> None:
        """Remove so many bytes of what no run holds, the least recently used first."""
        prune(self.folder, max(self.nbytes - nbytes, 0))

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.json"


def _mapped(change: Callable[[str], str], value: Any) -> Any:
    """Return a result with every text in it changed; keys stay."""
    if isinstance(value, dict):
        return {key: _mapped(change, inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_mapped(change, inside) for inside in value]
    return change(value) if isinstance(value, str) else value
