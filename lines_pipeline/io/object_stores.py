"""Outputs in object stores: complete local files are sent up, indices last, so that what lies there is whole."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import EngineError, PlanError

UPLOADS_AT_ONCE = 4
_SHARD, _INDEX = re.compile(r"-\d{5}-of-\d{5}\.safetensors$"), ".index.json"


@dataclass(frozen=True)
class ObjectStore:
    """A place that fsspec can write to: ``path`` on ``filesystem``; there is no writing at an offset there."""

    url: str
    filesystem: Any
    path: str

    def upload(self, folder: Path) -> None:
        """Send every file in ``folder`` to its relative path. Raises ``EngineError`` where one cannot be written.

        Then, and when it is interrupted, each checkpoint is there as a whole, as it was before, or not at all: shards
        count from the moment when their index is there, which goes first and comes back last.
        """
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        indices = [file for file in files if file.endswith(_INDEX)]
        begun: set[str] = set()
        whole: set[str] = set()

        def put(file: str) -> None:
            begun.add(file)
            self.filesystem.put_file(str(folder / file), f"{self.path}/{file}")
            if not _SHARD.search(file):
                whole.add(file)

        try:
            self._remove(indices)
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                list(pool.map(put, [file for file in files if file not in indices]))
            for index in indices:
                put(index)
        except BaseException as error:
            with suppress(Exception):
                self._remove(begun - whole)
            if isinstance(error, Exception):
                raise EngineError(f"{self.url}: cannot be written ({type(error).__name__}: {error})") from error
            raise

    def location(self, file: Path, folder: Path) -> str:
        """The URL of a file of ``folder``."""
        return f"{self.url}/{file.relative_to(folder).as_posix()}"

    def _remove(self, files: Iterable[str]) -> None:
        for file in sorted(files):
            if self.filesystem.exists(f"{self.path}/{file}"):
                self.filesystem.rm_file(f"{self.path}/{file}")


def is_url(place: object) -> bool:
    """Whether a place to write to is in an object store; paths are not, nor are ``file://`` URLs."""
    return isinstance(place, str) and "://" in place and not place.startswith("file://")


def open_store(url: str) -> ObjectStore:
    """The object store at a URL; sends nothing. Raises ``PlanError`` for one that fsspec does not know."""
    try:
        import fsspec
    except ImportError as error:
        raise PlanError(f"--out {url}: needs the extra 'hub': pip install 'lines-pipeline[hub]'") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(url.rstrip("/"))
    except (ImportError, ValueError) as error:
        raise PlanError(f"--out {url}: cannot be used ({error})") from error
    return ObjectStore(url.rstrip("/"), filesystem, path)
