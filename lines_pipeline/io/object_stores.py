"""Uploads complete local files to object stores, indices last, so that checkpoints there are whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from lines_pipeline.core.errors import EngineError, PlanError
from lines_pipeline.io.committing import is_ours, listed_files, shard_pattern
from lines_pipeline.io.companions import MANIFEST

UPLOADS_AT_ONCE = 4
_SHARD, _SUFFIX, _INDEX = re.compile(r"-\d{5}-of-\d{5}\.safetensors$"), ".safetensors", ".index.json"


@dataclass(frozen=True)
class ObjectStore:
    """Names a place that fsspec can write to: ``path`` on ``filesystem``; there is no writing at an offset there."""

    url: str
    filesystem: Any
    path: str

    def upload(self, folder: Path) -> None:
        """Send every file in ``folder`` to its relative path. Raises ``EngineError`` where one cannot be written.

        Then, and when it is interrupted, each checkpoint is there as a whole, as it was before, or not at all: shards
        count from the moment when their index is there, a model folder from when its weights are. What an earlier
        upload of the same name left goes.
        """
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        indices = [file for file in files if file.endswith(_INDEX)]
        singles = [file for file in files if file.endswith(_SUFFIX) and not _SHARD.search(file)]
        begun: set[str] = set()
        whole: set[str] = set()

        def put(file: str) -> None:
            begun.add(file)
            self.filesystem.put_file(str(folder / file), f"{self.path}/{file}")
            if not _SHARD.search(file):
                whole.add(file)

        try:
            first, last = self._leftovers(files, indices, singles)
            self._remove(first)
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                list(pool.map(put, [file for file in files if file not in {*indices, *singles}]))
                list(pool.map(put, singles))
            for index in indices:
                put(index)
            self._remove(last)
        except BaseException as error:
            with suppress(Exception):
                self._remove(sorted(begun - whole))
            if isinstance(error, Exception):
                raise EngineError(f"{self.url}: cannot be written ({type(error).__name__}: {error})") from error
            raise

    def renew(self, folder: Path, files: Iterable[Path]) -> None:
        """Send single files of ``folder`` once more."""
        try:
            for file in files:
                self.filesystem.put_file(str(file), f"{self.path}/{file.relative_to(folder).as_posix()}")
        except Exception as error:
            raise EngineError(f"{self.url}: cannot be written ({type(error).__name__}: {error})") from error

    def location(self, file: Path, folder: Path) -> str:
        """Return the URL of a file or folder in ``folder``."""
        return f"{self.url}/{file.relative_to(folder).as_posix()}"

    def _leftovers(
        self, files: Sequence[str], indices: Sequence[str], singles: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """Return files that an earlier upload left of the same checkpoints: to remove before the upload, and after."""
        first: list[str] = []
        last: list[str] = []
        for manifest in (file for file in files if PurePosixPath(file).name == MANIFEST):
            earlier = self._listed(manifest)
            weights = [file for file in earlier if file.endswith((_INDEX, _SUFFIX))]
            first += sorted(weights, key=lambda file: not file.endswith(_INDEX))
            first += [file for file in earlier if file not in files]
        for index in indices:
            first += [index, *self._shards(index.removesuffix(_INDEX), files)]
            last.append(index.removesuffix(_INDEX))
        for single in singles:
            shards = self._shards(single, files)
            last += [f"{single}{_INDEX}", *shards] if shards else []
        return list(dict.fromkeys(first)), list(dict.fromkeys(last))

    def _shards(self, checkpoint: str, files: Sequence[str]) -> list[str]:
        """Return the shards of a checkpoint that lie there: those that a run wrote, or that will be replaced."""
        path = PurePosixPath(checkpoint)
        folder = f"{self.path}/{path.parent}" if path.parent.parts else self.path
        try:
            file_names = [str(name).rsplit("/", 1)[-1] for name in self.filesystem.ls(folder, detail=False)]
        except FileNotFoundError:
            return []
        names = [name for name in sorted(file_names) if shard_pattern(Path(path)).fullmatch(name)]
        files_there = [(path.parent / name).as_posix() for name in names]
        return [file for file in files_there if file in files or is_ours(partial(self._read, file))]

    def _read(self, file: str, start: int, end: int) -> bytes:
        return bytes(self.filesystem.cat_file(f"{self.path}/{file}", start=start, end=end))

    def _listed(self, manifest: str) -> list[str]:
        """Return the files that the list of an earlier model folder names, by their paths in this store."""
        if not self.filesystem.exists(f"{self.path}/{manifest}"):
            return []
        content = self.filesystem.cat_file(f"{self.path}/{manifest}")
        return [(PurePosixPath(manifest).parent / name).as_posix() for name in listed_files(content)]

    def _remove(self, files: Iterable[str]) -> None:
        """Remove files, one after another, where they are there."""
        for file in files:
            if self.filesystem.exists(f"{self.path}/{file}"):
                self.filesystem.rm_file(f"{self.path}/{file}")


def is_url(place: object) -> bool:
    """Return whether a place to write to is in an object store; paths are not, nor are ``file://`` URLs."""
    return isinstance(place, str) and "://" in place and not place.startswith("file://")


def open_store(url: str) -> ObjectStore:
    """Return the object store at a URL; send nothing. Raises ``PlanError`` for one that fsspec does not know."""
    try:
        import fsspec
    except ImportError as error:
        raise PlanError(f"--out {url}: needs the extra 'hub': pip install 'lines-pipeline[hub]'") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(url.rstrip("/"))
    except (ImportError, ValueError) as error:
        raise PlanError(f"--out {url}: cannot be used ({error})") from error
    return ObjectStore(url.rstrip("/"), filesystem, path)
