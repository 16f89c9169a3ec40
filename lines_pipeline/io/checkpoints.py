"""Opens checkpoints: after this, every tensor is contiguous bytes at an offset of a file, whatever the format."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.core.printable import printable_name
from lines_pipeline.core.tensors import TensorSpec

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar")


_IRREGULAR = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def irregular(mode: int) -> str | None:
    """What something with this mode (as ``os.stat`` has it) is, if it is no file: reading it might never end."""
    return None if stat.S_ISREG(mode) else _IRREGULAR.get(stat.S_IFMT(mode), "something else")


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
        """The file as it is now; ``CheckpointError`` when it cannot be looked at, or is a pipe, device or socket."""
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CheckpointError(f"{path}: cannot be read ({reason})") from error
        if kind := irregular(found.st_mode):
            raise CheckpointError(f"{path}: {kind}, not a file; a merge reads files more than once")
        return cls(str(path), found.st_size, found.st_mtime_ns, found.st_ino)


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
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Further tensors that cannot be read, and why, as in "tensor x ...": refused, or dropped by choice."""
    part: str = ""
    """Which state dict of the files it is, where they nest several."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """The names that renamed tensors and aliases have in the files."""


def open_checkpoint(path: Path, *, uri: str | None = None, spool: Path | None = None, key: str = "") -> Checkpoint:
    """Read and check the headers of a file or folder; no tensor is read.

    ``key`` chooses a state dict of torch files that nest several. Torch files whose tensors are not contiguous bytes
    are rewritten once into the folder ``spool``; without one their headers are still told, at offset -1. Raises
    ``CheckpointError`` naming the file, the tensor and the remedy.
    """
    return require_readable(open_leniently(path, uri=uri, spool=spool, key=key))


def open_leniently(path: Path, *, uri: str | None = None, spool: Path | None = None, key: str = "") -> Checkpoint:
    """As ``open_checkpoint``, but tensors that cannot be read are told in ``unreadable``: see ``require_readable``."""
    uri = uri or str(path)
    if os.path.isdir(path):
        return replace(_open_folder(path, spool, key), uri=uri)
    if not os.path.exists(path):  # unlike that of pathlib, it also says no to names that are too long
        raise CheckpointError(missing_file(path))
    return replace(_open_file(path, spool, key), uri=uri)


def require_readable(checkpoint: Checkpoint, drop: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint; ``CheckpointError`` for tensors that cannot be read, unless globs of ``drop`` leave them out."""
    left = [name for name in checkpoint.unreadable if not any(fnmatchcase(name, glob) for glob in drop)]
    if not left:
        told = [f"'{printable_name(name)}' {why}" for name, why in checkpoint.unreadable.items()]
        dropped = (
            [f"{checkpoint.uri}: 'drop' leaves out tensors that cannot be read: {'; '.join(told[:4])}"] if told else []
        )
        return replace(checkpoint, notes=(*checkpoint.notes, *dropped))
    more = f" (and {len(left) - 1} more tensors cannot be read)" if len(left) > 1 else ""
    name = printable_name(left[0])
    raise CheckpointError(
        f"{checkpoint.uri}: tensor '{name}' {checkpoint.unreadable[left[0]]}{more}. To leave it out of everything, say "
        f"'drop: [\"{name}\"]' in the load node."
    )


def missing_file(path: Path) -> str:
    """The message for a path that does not exist, with the nearest name in its folder."""
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{path}: no such file or folder{did_you_mean(path.name, near)}"


def _open_file(path: Path, spool: Path | None, key: str = "") -> Checkpoint:
    from lines_pipeline.io.formats.foreign import refuse_foreign_file
    from lines_pipeline.io.formats.safetensors import open_safetensors_file
    from lines_pipeline.io.formats.torch import open_torch_file

    SourceFile.of(path)  # before anything is read: opening a pipe would wait for ever
    refuse_foreign_file(path)
    if path.name.lower().endswith(TORCH_SUFFIXES):
        return open_torch_file(path, spool, key)
    if key:
        raise CheckpointError(f"{path}: 'key' is for torch files; a safetensors file holds one set of tensors")
    return open_safetensors_file(path)


def _open_folder(folder: Path, spool: Path | None, key: str = "") -> Checkpoint:
    from lines_pipeline.io.formats.foreign import refuse_foreign_folder

    refuse_foreign_folder(folder)
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).exists():
            return _open_shards(folder / index, spool, key)
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _open_shards(indices[0], spool, key)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return _open_file(folder / name, spool, key)
    found = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors")
    found = found or sorted(p for p in folder.iterdir() if p.suffix in TORCH_SUFFIXES)
    if len(found) == 1:
        return _open_file(found[0], spool, key)
    what = (
        "no checkpoint" if not found else f"several checkpoints ({', '.join(p.name for p in found[:4])}) and no index"
    )
    raise CheckpointError(f"{folder}: the folder holds {what}; name the file, or add a *.safetensors.index.json")


def _open_shards(index: Path, spool: Path | None, key: str = "") -> Checkpoint:
    weight_map = _weight_map(index)
    shards = {name: _open_file(_shard(index, name), spool, key) for name in sorted(set(weight_map.values()))}
    tensors: dict[str, StoredTensor] = {}
    for name, shard in sorted(weight_map.items()):
        if not any(name in names for names in (shards[shard].tensors, shards[shard].aliases, shards[shard].unreadable)):
            raise CheckpointError(f"{index}: tensor '{name}' should be in {shard}, which does not have it")
        if name in shards[shard].tensors:
            tensors[name] = shards[shard].tensors[name]
    for shard, checkpoint in shards.items():
        for name in checkpoint.tensors:
            if name not in weight_map:
                raise CheckpointError(f"{index}: {shard} holds tensor '{name}', which the index does not name")
    aliases = {alias: name for shard in shards.values() for alias, name in shard.aliases.items()}
    files = (SourceFile.of(index), *(file for shard in shards.values() for file in shard.files))
    notes = tuple(note for shard in shards.values() for note in shard.notes)
    unreadable = {name: why for shard in shards.values() for name, why in shard.unreadable.items()}
    part = key and next(shard.part for shard in shards.values())
    return Checkpoint(str(index.parent), files, tensors, aliases, notes=notes, unreadable=unreadable, part=part)


def _weight_map(index: Path) -> dict[str, str]:
    SourceFile.of(index)
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
    if not os.path.exists(path):
        raise CheckpointError(f"{index}: shard '{name}' is missing from {index.parent}")
    return path
