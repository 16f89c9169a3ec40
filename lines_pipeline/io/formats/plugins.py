"""Opens files by formats that installed packages offer for their endings: those tell where the tensors lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lines_pipeline.core.entry_points import FORMATS, PluginEntry, entry_points_of
from lines_pipeline.core.errors import CheckpointError, LinesError
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import ITEM_BYTES, TensorSpec
from lines_pipeline.io.checkpoint import TORCH_SUFFIXES, Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.formats.foreign import SAFETENSORS


def open_by_plugin(path: Path) -> Checkpoint | None:
    """Open a file by the package that offers its ending (``gguf``); None where none does, or the ending is our own."""
    name = path.name.lower()
    if name.endswith((SAFETENSORS, *TORCH_SUFFIXES)):
        return None
    entry = entry_points_of(FORMATS).get(path.suffix.lower().removeprefix("."))
    return None if entry is None else _opened(path, entry)


def _opened(path: Path, entry: PluginEntry) -> Checkpoint:
    read = entry.load()
    file = SourceFile.of(path)
    try:
        entries = dict(read(path))
        tensors = {name: _stored(path, file, name, entries[name]) for name in sorted(entries)}
    except LinesError:
        raise
    except Exception as error:  # the door of code that is not ours
        raise CheckpointError(f"{path}: {entry} raised {type(error).__name__}: {error}") from error
    return Checkpoint(str(path), (file,), tensors, notes=(f"{path.name} was read by {entry.distribution}",))


def _stored(path: Path, file: SourceFile, name: str, described: Any) -> StoredTensor:
    dtype, shape, offset = described
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"{path}: tensor '{printable(name)}': unknown data type '{dtype}'")
    spec = TensorSpec(name, dtype, tuple(int(side) for side in shape))
    if min(offset, *spec.shape, 0) < 0 or offset + spec.nbytes > file.size:
        where = f"{spec.nbytes} bytes at {offset} are not in the file of {file.size} bytes"
        raise CheckpointError(f"{path}: tensor '{printable(name)}': {where}")
    return StoredTensor(spec, str(path), offset)
