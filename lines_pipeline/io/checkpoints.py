"""Opens checkpoints: after this, every tensor is contiguous bytes at an offset of a file, whatever the format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.core.tensors import TensorSpec

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's place: ``spec.nbytes`` bytes of ``path`` from ``offset``."""

    spec: TensorSpec
    path: str
    offset: int


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when opened: size in bytes, modification time in nanoseconds, inode."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """The file as it is now; ``CheckpointError`` when it cannot be looked at."""
        try:
            stat = os.stat(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        return cls(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: ``tensors`` sorted by name, ``aliases`` from second names of tied tensors to first ones."""

    uri: str
    files: tuple[SourceFile, ...]
    tensors: Mapping[str, StoredTensor]
    aliases: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What the user should be told of how it was read: entries left out, which of several files was taken."""


def open_checkpoint(path: Path, *, uri: str | None = None, spool: Path | None = None) -> Checkpoint:
    """Read and check the headers of a file or folder; no tensor is read.

    Torch files whose tensors are not contiguous bytes are rewritten once into the folder ``spool``; without one their
    headers are still told, at offset -1. Raises ``CheckpointError`` naming the file, the tensor and the remedy.
    """
    uri = uri or str(path)
    if path.is_dir():
        from lines_pipeline.io.model_folders import open_folder

        return replace(open_folder(path, lambda file: _open_file(file, spool)), uri=uri)
    if not exists(path):
        raise CheckpointError(missing_file(path))
    return replace(_open_file(path, spool), uri=uri)


def exists(path: Path) -> bool:
    """Whether there is anything at a path; ``CheckpointError`` for what cannot be a path here."""
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{str(path)[:100]!r}: cannot be the path of a checkpoint ({reason})") from error


def missing_file(path: Path) -> str:
    """The message for a path that does not exist, with the nearest name in its folder."""
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{path}: no such file or folder{did_you_mean(path.name, near)}"


def _open_file(path: Path, spool: Path | None) -> Checkpoint:
    from lines_pipeline.io.safetensors_header import read_header
    from lines_pipeline.io.torch_files import open_torch_file
    from lines_pipeline.io.weight_files import other_format

    if path.suffix in TORCH_SUFFIXES:
        return open_torch_file(path, spool)
    if path.suffix == ".safetensors":
        tensors, metadata = read_header(path)
        return Checkpoint(str(path), (SourceFile.of(path),), tensors, metadata=metadata)
    if other := other_format([path.name]):
        raise CheckpointError(f"{path}: {other}")
    raise CheckpointError(
        f"{path}: unknown kind of file, expected .safetensors, {', '.join(TORCH_SUFFIXES)} or a folder"
    )
