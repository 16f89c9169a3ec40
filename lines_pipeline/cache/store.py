"""Keeps step values, statistics and metrics by content key, for all runs, recipes and processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lines_pipeline.cache.eviction import VALUES, entries, hold, prune, remove, size_limit
from lines_pipeline.core.errors import CheckpointError, EngineError
from lines_pipeline.core.logs import LOG
from lines_pipeline.core.secrets import NO_SECRETS, Secrets, by_value
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.digests import DigestStore, Known
from lines_pipeline.io.entries import read_entry, write_entry
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.write_once import noted, notes_path

FILES = "files"
"""The kind of entry that holds paths: what comes from the environment is in them by name."""


class NodeCache:
    """Reads and writes entries, which are whole or absent; damaged ones count as absent.

    With ``reading`` off, only digests are looked up.

    A value that a run has found or made stays until the run ends, whatever other runs make room for. Small results that
    cannot be written, because the disk is full, say, are not kept: ``unwritten`` then tells why.
    """

    def __init__(self, folder: Path, *, reading: bool = True, secrets: Secrets = NO_SECRETS) -> None:
        self.folder, self._reading, self.secrets = folder, reading, secrets
        self.unwritten = ""
        self._digests = DigestStore(folder / "digests")
        self.spool = folder / "spool"
        self._held: dict[Path, BinaryIO] = {}
        self._sound: set[Path] = set()
        self._damaged: set[Path] = set()

    def close(self) -> None:
        """Let go of what was held; other runs may remove it now."""
        while self._held:
            self._held.popitem()[1].close()

    def value_path(self, key: str) -> Path:
        """Return where the value of a step with this key lies, or would lie."""
        return self.folder / VALUES / f"{key}.safetensors"

    def has_value(self, key: str | None) -> bool:
        """Return whether a step's value is there, as large as it was made; does not read it (see ``is_sound``)."""
        path = self.value_path(str(key))
        looked_up = self._reading or path in self._sound  # what this run made may be read in any case
        if key is None or not looked_up or path in self._damaged or not path.is_file() or not self.hold(path):
            return False
        notes = read_entry(notes_path(path))
        return path.is_file() and notes is not None and notes["bytes"] == path.stat().st_size

    def open_value(self, key: str) -> Checkpoint | None:
        """Return a value as a checkpoint; None where its header is damaged, and no value from then on."""
        try:
            return open_checkpoint(self.value_path(key))
        except CheckpointError:
            self._damaged.add(self.value_path(key))
            return None

    def is_sound(self, path: Path) -> bool:
        """Return whether a value has the size and digest of its making; a damaged one is no value from then on.

        Reads all of it, once a run.
        """
        if path not in self._sound:
            notes = read_entry(notes_path(path))
            (self._damaged if notes is None or notes != noted(path) else self._sound).add(path)
        return path in self._sound

    def get(self, kind: str, key: str | None) -> Any:
        """Return a remembered result (``stats``, ``scores``, ``files``), or None."""
        remembered = None if key is None or not self._reading else read_entry(self._path(kind, key))
        if key is not None:
            LOG.debug("cache: %s of %s: %s", kind, key, "not there" if remembered is None else "found")
        return _mapped(by_value, remembered) if kind == FILES else remembered

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

    def adopt(self, path: Path, key: str) -> Path:
        """Move a complete file into the cache under its key, and make room where the cache has grown too large.

        Raises ``EngineError`` where the cache cannot be written.
        """
        target = self.value_path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.hold(target)
            write_entry(notes_path(target), noted(path))
            os.replace(path, target)
        except OSError as error:
            raise EngineError(cache_full(self.folder, error)) from error
        self._damaged.discard(target)
        self._sound.add(target)
        prune(self.folder, size_limit())
        return target

    @property
    def nbytes(self) -> int:
        """Return the bytes of all entries."""
        return sum(entry.nbytes for entry in entries(self.folder))

    def make_room(self, nbytes: int) -> None:
        """Remove so many bytes of what no run holds, the least recently used first."""
        prune(self.folder, max(self.nbytes - nbytes, 0))

    def hold(self, path: Path) -> bool:
        """Keep a file of the cache from being removed while this run lasts; return whether that could be done."""
        if path not in self._held:
            held = hold(path)
            if held is None:
                return False
            self._held[path] = held
        return True

    def discard(self, path: Path) -> None:
        """Remove a value that this run no longer needs, unless another run holds it."""
        self._sound.discard(path)
        if path in self._held:
            self._held.pop(path).close()
        remove(path)

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.json"


def cache_full(folder: Path, error: OSError) -> str:
    """Return the message for a value that the cache has no place for."""
    return (
        f"{folder}: the cache cannot be written ({error.strerror}): evaluated models are kept there. Free some "
        "space ('lines-pipeline cache prune --to 0' empties it), or set XDG_CACHE_HOME to a folder with more room"
    )


def _mapped(change: Callable[[str], str], value: Any) -> Any:
    """Return a result with every text in it changed; keys stay."""
    if isinstance(value, dict):
        return {key: _mapped(change, inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_mapped(change, inside) for inside in value]
    return change(value) if isinstance(value, str) else value
