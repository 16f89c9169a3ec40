"""Writes safetensors files by position: header first, blocks in any order by any worker, then whole or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lines_pipeline.core.errors import EngineError, PlanError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.folders import make_inside
from lines_pipeline.io.formats.safetensors import write_header
from lines_pipeline.io.reading import as_bytes
from lines_pipeline.io.temporaries import temporary_path

_ALIGNMENT = 64


@dataclass(frozen=True)
class OutputFile:
    """Describes one file to write: its tensors, and how much room its header has."""

    path: Path
    temporary: Path
    specs: tuple[TensorSpec, ...]
    header_bytes: int

    @property
    def start(self) -> int:
        """Return the offset at which the payload begins."""
        return 8 + self.header_bytes

    @property
    def size(self) -> int:
        """Return the bytes of the whole file."""
        return self.start + sum(spec.nbytes for spec in self.specs)

    def offsets(self) -> dict[str, int]:
        """Return the absolute offset of every tensor."""
        offsets, offset = {}, self.start
        for spec in self.specs:
            offsets[spec.name] = offset
            offset += spec.nbytes
        return offsets


@dataclass(frozen=True)
class OutputLayout:
    """Describes the files of one checkpoint to write, and its index where there are several."""

    path: Path
    files: tuple[OutputFile, ...]
    index: Path | None = None

    @property
    def nbytes(self) -> int:
        """Return the bytes that have to fit on the disk."""
        return sum(file.size for file in self.files)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Return the tensors of all files."""
        return tuple(spec for file in self.files for spec in file.specs)

    @property
    def written(self) -> tuple[Path, ...]:
        """Return the files that there will be: shards come before their index."""
        return tuple(file.path for file in self.files) + ((self.index,) if self.index else ())


def lay_out_files(
    path: Path, specs: Sequence[TensorSpec], *, metadata_bytes: int, max_shard_bytes: int | None = None
) -> OutputLayout:
    """Plan the files of a checkpoint; ``metadata_bytes`` is the room kept for the header's metadata. Writes nothing."""
    shards: list[list[TensorSpec]] = [[]]
    room = max_shard_bytes or 0
    for spec in sorted(specs, key=lambda spec: (-_alignment(spec), spec.name)):
        if max_shard_bytes and shards[-1] and spec.nbytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(spec)
        room -= spec.nbytes
    if len(shards) == 1:
        return OutputLayout(path, (_file(path, shards[0], metadata_bytes),))
    names = [f"{path.stem}-{i:05d}-of-{len(shards):05d}{path.suffix}" for i in range(1, len(shards) + 1)]
    files = tuple(_file(path.parent / n, shard, metadata_bytes) for n, shard in zip(names, shards, strict=True))
    return OutputLayout(path, files, path.parent / f"{path.name}.index.json")


def _alignment(spec: TensorSpec) -> int:
    """Return a key that sorts wide types first, so that every tensor starts at a multiple of its item size."""
    return spec.nbytes // spec.numel if spec.numel else 8


def _file(path: Path, specs: Sequence[TensorSpec], metadata_bytes: int) -> OutputFile:
    temporary = temporary_path(path)
    bare = len(write_header(specs, {}))
    header_bytes = -(-(bare + metadata_bytes + 64 + 8) // _ALIGNMENT) * _ALIGNMENT - 8
    return OutputFile(path, temporary, tuple(specs), header_bytes)


def create_files(layout: OutputLayout) -> None:
    """Make the temporary files at full size, so that a full disk is noticed before any work."""
    try:
        for file in layout.files:
            create = partial(os.open, file.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            descriptor = make_inside(file.temporary.parent, create)
            try:
                os.posix_fallocate(descriptor, 0, file.size)
            finally:
                os.close(descriptor)
    except OSError as error:
        discard_files(layout)
        raise EngineError(_cannot_write(layout.path, error, layout.nbytes)) from error


def _cannot_write(path: Path, error: OSError, nbytes: int | None = None) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f", {nbytes / 1e6:,.1f} MB are needed" if nbytes else ""
        return f"{path}: the disk is full{needed}; free some space or choose another --out"
    return f"{path}: cannot be written ({error.strerror}); choose another --out"


@dataclass(frozen=True)
class Shortage:
    """Names a disk that has not got room for the files that are to be written there; its text tells users so."""

    paths: tuple[Path, ...]
    nbytes: int
    free_bytes: int

    @property
    def missing_bytes(self) -> int:
        """Return the bytes that the disk lacks."""
        return self.nbytes - self.free_bytes

    def __str__(self) -> str:
        also = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        free = f"{self.free_bytes / 1e6:,.1f} MB are free"
        return (
            f"{self.paths[0]}{also}: {self.nbytes / 1e6:,.1f} MB are to be written, {free}; "
            "free some space or choose another --out or cache (XDG_CACHE_HOME)"
        )


def space_shortages(sizes: Mapping[Path, int]) -> list[Shortage]:
    """Return the disks that have not got room for files of these sizes, by their paths."""
    disks: dict[int, list[Path]] = {}
    folders = {path: next(parent for parent in path.absolute().parents if parent.is_dir()) for path in sizes}
    for path, folder in folders.items():
        disks.setdefault(os.stat(folder).st_dev, []).append(path)
    shortages = [
        Shortage(tuple(paths), sum(sizes[path] for path in paths), shutil.disk_usage(folders[paths[0]]).free)
        for paths in disks.values()
    ]
    return [shortage for shortage in shortages if shortage.missing_bytes > 0]


def write_block(path: str, descriptor: int, offset: int, value: torch.Tensor) -> None:
    """Write a 1-D block at an absolute offset of the file at ``path``. Raises ``EngineError`` where the disk fails."""
    view = as_bytes(value.contiguous())
    try:
        while view:
            count = os.pwrite(descriptor, view, offset)
            view, offset = view[count:], offset + count
    except OSError as error:
        raise EngineError(_cannot_write(Path(path).parent, error)) from error


def complete_files(layout: OutputLayout, metadata: Mapping[str, str]) -> None:
    """Write the headers, and make the temporary files durable: they lack nothing but their names."""
    try:
        for file in layout.files:
            header = write_header(file.specs, metadata)
            if len(header) > file.header_bytes:
                raise PlanError(f"{file.path}: the header needs {len(header)} bytes, {file.header_bytes} were kept")
            descriptor = os.open(file.temporary, os.O_WRONLY)
            try:
                os.pwrite(descriptor, file.header_bytes.to_bytes(8, "little") + header.ljust(file.header_bytes), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise cannot_write(layout, error) from error


def cannot_write(layout: OutputLayout, error: OSError) -> EngineError:
    """Return the error for a checkpoint that the disk does not take."""
    return EngineError(_cannot_write(layout.path, error, layout.nbytes))


def index_content(layout: OutputLayout) -> bytes:
    """Return the index of a sharded checkpoint, as transformers writes it."""
    weight_map = {spec.name: file.path.name for file in layout.files for spec in file.specs}
    total = sum(spec.nbytes for file in layout.files for spec in file.specs)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(content, indent=2) + "\n").encode()


def discard_files(layout: OutputLayout) -> None:
    """Remove what was written of files that will not be complete."""
    for file in layout.files:
        file.temporary.unlink(missing_ok=True)
