"""The node cache: step values, statistics and metrics by content key, shared by runs, recipes and processes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, BinaryIO

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.engine.housekeeping import VALUES, hold, prune, remove, size_limit, value_notes
from lines_pipeline.io.checkpoints import Checkpoint, open_checkpoint
from lines_pipeline.io.digests import DigestStore
from lines_pipeline.io.entries import file_digest, read_entry, write_entry


class NodeCache:
    """Entries are whole or absent; damaged ones count as absent and go. With ``reading`` off nothing is looked up.

    A value that a run has found or made stays until the run ends, whatever other runs make room for.
    """

    def __init__(self, folder: Path, *, reading: bool = True) -> None:
        self.folder, self._reading = folder, reading
        self.digests = DigestStore(folder / "digests")
        self.spool = folder / "spool"
        self._held: dict[Path, BinaryIO] = {}
        self._sound: set[Path] = set()

    def value_path(self, key: str) -> Path:
        """Where the value of a step with this key lies, or would lie."""
        return self.folder / VALUES / f"{key}.safetensors"

    def has_value(self, key: str | None) -> bool:
        """Whether a step's value is there, as large as it was made; its content is not looked at (see ``is_sound``)."""
        if key is None or not self._reading:
            return False
        path = self.value_path(key)
        if not self.hold(path) or not path.is_file():
            return False
        notes = read_entry(value_notes(path))
        whole = notes is not None and notes["bytes"] == path.stat().st_size
        return whole or self.discard(path, damaged=True)

    def open_value(self, key: str) -> Checkpoint | None:
        """A value as a checkpoint; None, and gone, where its header is damaged."""
        try:
            return open_checkpoint(self.value_path(key))
        except CheckpointError:
            self.discard(self.value_path(key), damaged=True)
            return None

    def is_sound(self, path: Path) -> bool:
        """Whether a value has the size and digest noted when it was made; a damaged one is removed.

        Reads all of it, once a run.
        """
        if path not in self._sound:
            notes = read_entry(value_notes(path))
            if notes is None or notes != _notes(path):
                return self.discard(path, damaged=True)
            self._sound.add(path)
        return True

    def get(self, kind: str, key: str | None) -> Any:
        """A remembered result (``stats``, ``accuracies``, ``files``), or None."""
        return None if key is None or not self._reading else read_entry(self._path(kind, key))

    def put(self, kind: str, key: str | None, result: Any) -> None:
        """Remember a result that JSON can hold; a result without a key is not kept."""
        if key is not None:
            plain = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]
            write_entry(self._path(kind, key), plain)

    def adopt(self, path: Path, key: str) -> Path:
        """Move a complete file into the cache under its key, and make room where the cache has grown too large."""
        target = self.value_path(key)
        write_entry(value_notes(target), _notes(path))
        os.replace(path, target)
        self.hold(target)
        self._sound.add(target)
        prune(self.folder, size_limit())
        return target

    def hold(self, path: Path) -> bool:
        """Keep a file of the cache from being removed while this run lasts; whether it could be."""
        if path not in self._held:
            held = hold(path)
            if held is None:
                return False
            self._held[path] = held
        return True

    def discard(self, path: Path, *, damaged: bool = False) -> bool:
        """Remove a value that this run no longer needs, unless another run holds it and it is not damaged.

        Gives False: it is not to be used.
        """
        self._sound.discard(path)
        if path in self._held:
            self._held.pop(path).close()
        remove(path, held=damaged)
        return False

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.json"


def _notes(path: Path) -> dict[str, Any] | None:
    try:
        return {"bytes": path.stat().st_size, "digest": file_digest(path)}
    except OSError:
        return None
