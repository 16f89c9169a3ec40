"""Opens checkpoints: after this, every tensor is contiguous bytes at an offset of a file, whatever the format."""

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
    """What something with this mode (as ``os.stat`` has it) is, if it is no file: reading it might never end."""
    return None if stat.S_ISREG(mode) else _IRREGULAR.get(stat.S_IFMT(mode), "something else")


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
    """A file as it was when opened: size in bytes, modification time in nanoseconds, inode.

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
        """The file as it is now; ``CheckpointError`` when it cannot be looked at, or is a pipe, device or socket."""
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CheckpointError(f"{path}: cannot be read ({reason})") from error
        if kind := irregular(found.st_mode):
            raise CheckpointError(f"{path}: {kind}, not a file; a merge reads files more than once")
        return cls(str(path), found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)


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
    left_out: tuple[str, ...] = ()
    """Further tensors that are left out by choice."""
    pending_bytes: int = 0
    """What a run will write of it into the cache before it can read it."""


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
    if os.path.isdir(path):  # unlike that of pathlib, it also says no to names that are too long
        from lines_pipeline.io.formats.foreign import refuse_foreign_folder
        from lines_pipeline.io.model_folders import open_folder

        refuse_foreign_folder(path)
        return replace(open_folder(path, lambda file: _open_file(file, spool, key)), uri=uri)
    if not exists(path):
        raise CheckpointError(missing_file(path))
    return replace(_open_file(path, spool, key), uri=uri)


def require_readable(checkpoint: Checkpoint, is_dropped: Callable[[str], bool] = lambda name: False) -> Checkpoint:
    """The checkpoint; ``CheckpointError`` for tensors that cannot be read, but those that the recipe drops."""
    left = [name for name in checkpoint.unreadable if not is_dropped(name)]
    if not left:
        told = [f"'{printable(name)}' {why}" for name, why in checkpoint.unreadable.items()]
        dropped = (
            [f"{checkpoint.uri}: 'drop' leaves out tensors that cannot be read: {'; '.join(told[:4])}"] if told else []
        )
        return replace(checkpoint, notes=(*checkpoint.notes, *dropped))
    more = f" (and {len(left) - 1} more tensors cannot be read)" if len(left) > 1 else ""
    name = printable(left[0])
    raise CheckpointError(
        f"{checkpoint.uri}: tensor '{name}' {checkpoint.unreadable[left[0]]}{more}. To leave it out of everything, say "
        f"'drop: [{exact_glob(left[0])}]' in the load node."
    )


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
