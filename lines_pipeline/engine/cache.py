"""The node cache: step values, statistics and metrics by content key, shared by runs, recipes and processes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from lines_pipeline.core.keys import canonical_json
from lines_pipeline.io.digests import DigestStore, write_atomically


class NodeCache:
    """Entries are whole or absent; damaged ones count as absent. With ``reading`` off nothing is looked up."""

    def __init__(self, folder: Path, *, reading: bool = True) -> None:
        self.folder, self._reading = folder, reading
        self.digests = DigestStore(folder / "digests")
        self.spool = folder / "spool"

    def value_path(self, key: str) -> Path:
        """Where the value of a step with this key lies, or would lie."""
        return self.folder / "values" / f"{key}.safetensors"

    def has_value(self, key: str | None) -> bool:
        """Whether a step's value is there."""
        return key is not None and self._reading and self.value_path(key).is_file()

    def get(self, kind: str, key: str | None) -> Any:
        """A remembered result (``stats``, ``metrics``, ``files``), or None."""
        if key is None or not self._reading:
            return None
        try:
            return json.loads(self._path(kind, key).read_text())["result"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, kind: str, key: str | None, result: Any) -> None:
        """Remember a result that JSON can hold; a result without a key is not kept."""
        if key is None:
            return
        plain = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]
        write_atomically(self._path(kind, key), canonical_json({"result": plain}).encode())

    def adopt(self, path: Path, key: str) -> Path:
        """Move a complete file into the cache under its key."""
        target = self.value_path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        return target

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.json"
