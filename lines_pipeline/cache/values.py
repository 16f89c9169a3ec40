"""Keeps the values of steps as files by content key, and holds those of this run while it lasts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from lines_pipeline.cache.eviction import VALUES, hold, prune, remove, size_limit
from lines_pipeline.core.errors import CheckpointError, EngineError
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.entries import read_entry, write_entry
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.write_once import noted, notes_path


class CachedValues:
    """Finds and adopts files of values; with ``reading`` off, it finds only those that this run has made.

    A value that a run has found or made stays until the run ends, whatever other runs make room for.
    """

    def __init__(self, folder: Path, *, reading: bool = True) -> None:
        self.folder, self._reading = folder, reading
        self._held: dict[Path, BinaryIO] = {}
        self._sound: set[Path] = set()
        self._damaged: set[Path] = set()

    def path(self, key: str) -> Path:
        """Return where the value of a step with this key lies, or would lie."""
        return self.folder / VALUES / f"{key}.safetensors"

    def has(self, key: str | None) -> bool:
        """Return whether a step's value is there, as large as it was made; does not read it (see ``is_sound``)."""
        path = self.path(str(key))
        looked_up = self._reading or path in self._sound  # what this run made may be read in any case
        if key is None or not looked_up or path in self._damaged or not path.is_file() or not self.hold(path):
            return False
        notes = read_entry(notes_path(path))
        return path.is_file() and notes is not None and notes["bytes"] == path.stat().st_size

    def open(self, key: str) -> Checkpoint | None:
        """Return a value as a checkpoint; None where its header is damaged, and no value from then on."""
        try:
            return open_checkpoint(self.path(key))
        except CheckpointError:
            self._damaged.add(self.path(key))
            return None

    def is_sound(self, path: Path) -> bool:
        """Return whether a value has the size and digest of its making; a damaged one is no value from then on.

        Reads all of it, once a run.
        """
        if path not in self._sound:
            notes = read_entry(notes_path(path))
            (self._damaged if notes is None or notes != noted(path) else self._sound).add(path)
        return path in self._sound

    def adopt(self, path: Path, key: str) -> Path:
        """Move a complete file into the cache under its key, and make room where the cache has grown too large.

        Raises ``EngineError`` where the cache cannot be written.
        """
        target = self.path(key)
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

    def release(self) -> None:
        """Let go of what was held; other runs may remove it now."""
        while self._held:
            self._held.popitem()[1].close()


def cache_full(folder: Path, error: OSError) -> str:
    """Return the message for a value that the cache has no place for."""
    return (
        f"{folder}: the cache cannot be written ({error.strerror}): evaluated models are kept there. Free some "
        "space ('lines-pipeline cache prune --to 0' empties it), or set XDG_CACHE_HOME to a folder with more room"
    )
