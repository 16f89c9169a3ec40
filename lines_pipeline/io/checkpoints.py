"""Opens checkpoints: after this, every tensor is contiguous bytes at an offset of a file, whatever the format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.core.tensors import TensorSpec

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's place: ``spec.nbytes`` bytes of ``path`` from ``offset``, unless it is stored otherwise."""

    spec: TensorSpec
    path: str
    offset: int
    stored_shape: tuple[int, ...] | None = None
    """The shape in the file, where ``spec`` is only its leading region (zero where the file has nothing)."""
    packed: bool = False
    """Whether the file has 8 values of a mask in a byte, the first in the lowest bit."""

    @property
    def is_plain(self) -> bool:
        """Whether the file has just these values, one after the other."""
        return self.stored_shape is None and not self.packed


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
        return replace(_open_folder(path, spool), uri=uri)
    if not path.exists():
        raise CheckpointError(missing_file(path))
    return replace(_open_file(path, spool), uri=uri)


def missing_file(path: Path) -> str:
    """The message for a path that does not exist, with the nearest name in its folder."""
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{path}: no such file or folder{did_you_mean(path.name, near)}"


def _open_file(path: Path, spool: Path | None) -> Checkpoint:
    from lines_pipeline.io.safetensors_header import read_header
    from lines_pipeline.io.torch_files import open_torch_file

    if path.suffix in TORCH_SUFFIXES:
        return open_torch_file(path, spool)
    if path.suffix == ".safetensors":
        tensors, metadata = read_header(path)
        return Checkpoint(str(path), (SourceFile.of(path),), tensors, metadata=metadata)
    raise CheckpointError(
        f"{path}: unknown kind of file, expected .safetensors, {', '.join(TORCH_SUFFIXES)} or a folder"
    )


def _open_folder(folder: Path, spool: Path | None) -> Checkpoint:
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).exists():
            return _open_shards(folder / index, spool)
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _open_shards(indices[0], spool)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return _open_file(folder / name, spool)
    found = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors")
    found = found or sorted(p for p in folder.iterdir() if p.suffix in TORCH_SUFFIXES)
    if len(found) == 1:
        return _open_file(found[0], spool)
    what = (
        "no checkpoint" if not found else f"several checkpoints ({', '.join(p.name for p in found[:4])}) and no index"
    )
    raise CheckpointError(f"{folder}: the folder holds {what}; name the file, or add a *.safetensors.index.json")


def _open_shards(index: Path, spool: Path | None) -> Checkpoint:
    weight_map = _weight_map(index)
    shards = {name: _open_file(_shard(index, name), spool) for name in sorted(set(weight_map.values()))}
    tensors: dict[str, StoredTensor] = {}
    for name, shard in sorted(weight_map.items()):
        if name not in shards[shard].tensors and name not in shards[shard].aliases:
            raise CheckpointError(f"{index}: tensor '{name}' should be in {shard}, which does not have it")
        if name in shards[shard].tensors:
            tensors[name] = shards[shard].tensors[name]
    for shard, checkpoint in shards.items():
        for name in checkpoint.tensors:
            if name not in weight_map:
                raise CheckpointError(f"{index}: {shard} holds tensor '{name}', which the index does not name")
    aliases = {alias: name for shard in shards.values() for alias, name in shard.aliases.items()}
    files = (SourceFile.of(index), *(file for shard in shards.values() for file in shard.files))
    metadata = next((shard.metadata for shard in shards.values()), {})
    return Checkpoint(str(index.parent), files, tensors, aliases, metadata)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a shard index, expected JSON with a 'weight_map'") from error
    return dict(weight_map)


def _shard(index: Path, name: str) -> Path:
    path = index.parent / name
    if Path(name).name != name:
        raise CheckpointError(f"{index}: shard '{name}' lies outside the folder")
    if not path.exists():
        raise CheckpointError(f"{index}: shard '{name}' is missing from {index.parent}")
    return path
