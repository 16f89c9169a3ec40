"""What a record says of the files that a run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lines_pipeline.core.events import FileWritten
from lines_pipeline.io.companions import CARD
from lines_pipeline.io.entries import file_digest


def file_rows(event: FileWritten) -> list[dict[str, Any]]:
    """Return what is recorded of each file; ``opened_by`` is the model folder or the index that it is a part of."""
    rows, files = [], event.files or (event.path,)
    for file in files:
        nbytes, digest = _measured(str(file))
        nbytes = event.nbytes if nbytes is None and len(files) == 1 else nbytes
        fields = {"node": event.node, "path": str(file), "bytes": nbytes}
        part = {} if str(file) == str(event.path) else {"opened_by": str(event.path)}
        rows.append({**fields, "digest": digest, "reused": event.reused, **part})
    return rows


def _measured(file: str) -> tuple[int | None, str]:
    """Return size and digest of a file; neither where it is elsewhere or unreadable: that is no failure of the store.

    A model card has no digest: it is written again once its model is evaluated.
    """
    path = Path(file)
    try:
        if "://" in file or not path.is_file():
            return None, ""
        nbytes = path.stat().st_size
        return nbytes, f"blake3:{file_digest(path)}" if nbytes and path.name != CARD else ""
    except (OSError, ValueError):
        return None, ""
