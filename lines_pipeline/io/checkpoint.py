"""Describes an opened checkpoint: every tensor is contiguous bytes at an offset of a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.core.printable import exact_glob, printable
from lines_pipeline.core.tensor_specs import TensorSpec

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar")


_IRREGULAR = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def irregular(mode: int) -> str | None:
    """Return what has this mode of ``os.stat``, if it is no file: reading it might never end."""
    return None if stat.S_ISREG(mode) else _IRREGULAR.get(stat.S_IFMT(mode), "something else")


@dataclass(frozen=True)
class StoredTensor:
    """Describes a tensor's place: ``spec.nbytes`` bytes of ``path`` from ``offset``, unless it is stored otherwise."""

    spec: TensorSpec
    path: str
    offset: int
    stored_shape: tuple[int, ...] | None = None
    """The shape in the file, where ``spec`` is only its leading region (zero where the file has nothing)."""
    packed: bool = False
    """Whether the file has 8 values of a mask in a byte, the first in the lowest bit."""

    @property
    def is_plain(self) -> bool:
        """Return whether the file has just these values, one after the other."""
        return self.stored_shape is None and not self.packed


@dataclass(frozen=True)
class SourceFile:
    """Describes a file as it was when opened: size in bytes, modification time in nanoseconds, inode.

    ``changed_ns`` is when the system last noted any change, also of its names. Nobody can set it back, so what is
    remembered of a file's content goes by it too; two looks at it during a run do not, for a new name is no change.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    changed_ns: int = field(default=0, compare=False)

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Describe the file as it is now; ``CheckpointError`` when it is unreachable, a pipe, a device or a socket."""
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CheckpointError(f"{path}: cannot be read ({reason})") from error
        if kind := irregular(status.st_mode):
            raise CheckpointError(f"{path}: {kind}, not a file; a merge reads files more than once")
        return cls(str(path), status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


@dataclass(frozen=True)
class Checkpoint:
    """Describes an opened checkpoint: ``tensors`` sorted by name, ``aliases`` from second to first names."""

    uri: str
    files: tuple[SourceFile, ...]
    tensors: Mapping[str, StoredTensor]
    aliases: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Messages on how it was read: entries left out, which of several files was taken."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Further tensors that cannot be read, and why, as in "tensor x ...": refused, or dropped by choice."""
    part: str = ""
    """The key of the state dict in the files, where they nest several."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """The names that renamed tensors and aliases have in the files."""
    left_out: tuple[str, ...] = ()
    """Further tensors that are left out by choice."""
    pending_bytes: int = 0
    """The bytes that a run will write into the cache before it can read it."""


def require_readable(checkpoint: Checkpoint, is_dropped: Callable[[str], bool] = lambda name: False) -> Checkpoint:
    """Return the checkpoint; ``CheckpointError`` for tensors that cannot be read, but those that the recipe drops."""
    unread = [name for name in checkpoint.unreadable if not is_dropped(name)]
    if not unread:
        reasons = [f"'{printable(name)}' {why}" for name, why in checkpoint.unreadable.items()]
        dropped = (
            [f"{checkpoint.uri}: 'drop' leaves out tensors that cannot be read: {'; '.join(reasons[:4])}"]
            if reasons
            else []
        )
        return replace(checkpoint, notes=(*checkpoint.notes, *dropped))
    also = f" (and {len(unread) - 1} more tensors cannot be read)" if len(unread) > 1 else ""
    name = printable(unread[0])
    raise CheckpointError(
        f"{checkpoint.uri}: tensor '{name}' {checkpoint.unreadable[unread[0]]}{also}. To leave it out of everything, "
        f"say 'drop: [{exact_glob(unread[0])}]' in the load node."
    )


def exists(path: Path) -> bool:
    """Return whether there is anything at a path; ``CheckpointError`` for what cannot be a path here."""
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{str(path)[:100]!r}: cannot be the path of a checkpoint ({reason})") from error


def missing_file(path: Path) -> str:
    """Return the message for a path that does not exist, with the nearest name in its folder."""
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{path}: no such file or folder{did_you_mean(path.name, near)}"
