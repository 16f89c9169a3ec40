"""Writes events as JSON lines, for other programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import Event


class JsonLinesSink:
    """Appends one JSON object an event to a file. Raises ``TrackingError``, at once, where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._append("")

    def __call__(self, event: Event) -> None:
        line = {"event": type(event).__name__, **dataclasses.asdict(event)}
        self._append(json.dumps(line, default=str) + "\n")

    def _append(self, text: str) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise TrackingError(f"{self._path}: events cannot be written there ({error.strerror})") from error
