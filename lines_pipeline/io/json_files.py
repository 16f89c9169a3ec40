"""Reads the JSON files that lie beside weights: indices, configurations, lists of modules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable
from lines_pipeline.io.checkpoint import SourceFile

MAX_JSON_BYTES = 100_000_000
MODULES = "modules.json"


def read_json(path: Path) -> Any:
    """Return what a JSON file beside weights holds. Raises ``CheckpointError`` naming the file and the remedy."""
    SourceFile.of(path)  # before it is opened: a pipe would wait for ever
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if content.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run 'git lfs pull'")
        if len(content) > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: more than {MAX_JSON_BYTES // 10**6} MB, which no such file has")
        return json.loads(content.decode("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({printable(str(error))}); download or save it again") from error


def read_json_or_none(path: Path) -> Any:
    """Return what a JSON file holds that is no part of the weights; None where there is none, or it cannot be read."""
    try:
        return read_json(path) if path.is_file() else None
    except (CheckpointError, OSError):
        return None


def read_modules(folder: Path) -> tuple[str, ...]:
    """Return the folders that a sentence-transformers folder's ``modules.json`` names, the transformer first.

    Those that would lie outside the folder are left out.
    """
    listed = read_json_or_none(folder / MODULES)
    texts = [entry.get("path") for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    paths = [PurePosixPath(path) for path in texts if isinstance(path, str) and path.isprintable()]
    return tuple(str(path) for path in paths if path.parts and not path.is_absolute() and ".." not in path.parts)
