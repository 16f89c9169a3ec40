"""Events as JSON lines, for other programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lines_pipeline.core.events import Event


class JsonLinesSink:
    """Appends one JSON object an event to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        line = {"event": type(event).__name__, **dataclasses.asdict(event)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
