"""Rewrites tensors of torch files that are not plain bytes in order, once, as a safetensors file of the cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lines_pipeline.core.errors import CheckpointError, EngineError
from lines_pipeline.core.keys import content_key
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensors import ITEM_BYTES, TensorSpec
from lines_pipeline.io.checkpoints import SourceFile, StoredTensor
from lines_pipeline.io.entries import file_digest, read_entry, write_entry
from lines_pipeline.io.formats.safetensors import read_header, write_header
from lines_pipeline.io.formats.torch_archives import PIECE_BYTES, Record, content_of
from lines_pipeline.io.formats.torch_tensors import TensorView
from lines_pipeline.io.temporaries import temporary_path

VERSION = 2
"""Raise it when what is written changes: earlier files are then not used."""
MAX_GROWTH = 16
SMALL_BYTES = 64 * 2**20
"""Tensors may take this much, or ``MAX_GROWTH`` times their file, when they are written out."""


@dataclass(frozen=True)
class Scattered:
    """A tensor whose values are not plain bytes in order: compressed, in another byte order, strided or negated."""

    view: TensorView
    record: Record


def check_growth(source: SourceFile, tensors: Mapping[str, Scattered]) -> None:
    """Refuse tensors that are small in their file and would be huge outside it, such as ``zeros(1).expand(10**9)``."""
    sizes = {name: tensor.view.numel * ITEM_BYTES[tensor.view.dtype] for name, tensor in tensors.items()}
    records = {tensor.record for tensor in tensors.values() if tensor.record.deflated_bytes is not None}
    if sum(sizes.values()) + sum(record.nbytes for record in records) > SMALL_BYTES + MAX_GROWTH * source.size:
        name = max(sizes, key=lambda name: sizes[name])
        raise CheckpointError(
            f"{source.path}: tensor '{printable(name)}' of shape {printable(list(tensors[name].view.shape))} "
            f"takes {sizes[name] / 1e6:,.0f} MB, in a file of {source.size / 1e6:,.3f} MB: it repeats values or is "
            "compressed. Save a copy that is neither: tensor.clone(memory_format=torch.contiguous_format)."
        )


def spooled(
    source: SourceFile, part: str, tensors: Mapping[str, Scattered], folder: Path, *, big_endian: bool
) -> Mapping[str, StoredTensor]:
    """The tensors as plain bytes in a file of ``folder``: an earlier one if it is whole, else a new one."""
    identity = [VERSION, source.path, source.size, source.mtime_ns, source.inode, part, sorted(tensors)]
    target = folder / f"{content_key(identity)[:32]}.safetensors"
    if not _is_sound(target):
        try:
            _write(source, tensors, target, big_endian=big_endian)
        except OSError as error:
            raise EngineError(
                f"{target}: {source.path} cannot be written out there ({error.strerror}); free some space, "
                "or set XDG_CACHE_HOME to a folder that has it"
            ) from error
    os.utime(target)  # when it was last used
    return read_header(target).tensors


def spool_notes(path: Path) -> Path:
    """The entry beside a spooled file that tells its size and digest."""
    return path.with_suffix(".json")


def _is_sound(path: Path) -> bool:
    """Whether a file is as it was written."""
    notes = read_entry(spool_notes(path))
    return path.is_file() and notes is not None and notes == _noted(path)


def _noted(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "digest": file_digest(path)}


def _write(source: SourceFile, tensors: Mapping[str, Scattered], target: Path, *, big_endian: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    specs = [TensorSpec(name, tensors[name].view.dtype, tensors[name].view.shape) for name in sorted(tensors)]
    header = write_header(specs, {})
    temporary = temporary_path(target)
    with ExitStack() as cleanup:
        cleanup.callback(temporary.unlink, missing_ok=True)
        storages = cleanup.enter_context(_storages(source.path, target))
        with temporary.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for spec in specs:
                if spec.numel:
                    file.writelines(_values(tensors[spec.name], storages, big_endian=big_endian))
        write_entry(spool_notes(target), _noted(temporary))
        os.replace(temporary, target)


@contextmanager
def _storages(path: str, target: Path) -> Iterator[Callable[[Record], np.ndarray[Any, Any]]]:
    """Gives the bytes of a record of the file at ``path``, mapped; deflated ones lie beside ``target`` meanwhile."""
    inflated: dict[Record, Path] = {}

    def mapped(record: Record) -> np.ndarray[Any, Any]:
        if record.deflated_bytes is None:
            return np.memmap(path, dtype=np.uint8, mode="r", offset=record.offset, shape=(record.nbytes,))
        if record not in inflated:
            inflated[record] = temporary_path(target)
            with open(path, "rb") as file, inflated[record].open("wb") as plain:
                plain.writelines(content_of(file.fileno(), path, record))
        return np.memmap(inflated[record], dtype=np.uint8, mode="r", shape=(record.nbytes,))

    try:
        yield mapped
    finally:
        for temporary in inflated.values():
            temporary.unlink(missing_ok=True)


def _values(
    tensor: Scattered, storages: Callable[[Record], np.ndarray[Any, Any]], *, big_endian: bool
) -> Iterator[memoryview]:
    """The values of a tensor in order, in pieces."""
    view, width = tensor.view, ITEM_BYTES[tensor.view.dtype]
    wide = [number for number, length in enumerate(view.shape) if length > 1]
    shape, strides = [view.shape[n] for n in wide], [view.strides[n] * width for n in wide]
    order = ">" if big_endian else "<"
    values = np.ndarray(shape, f"{order}u{width}", storages(tensor.record), view.offset * width, strides)
    for piece in _pieces(values):
        little = piece.astype(f"<u{width}", order="C")
        if view.negated:
            little ^= little.dtype.type(1 << (8 * width - 1))  # the sign of an IEEE number is its highest bit
        yield little.reshape(-1).data.cast("B")


def _pieces(values: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Parts of an array that fit into memory, in order."""
    if values.nbytes <= PIECE_BYTES or not values.ndim:
        yield values
        return
    rows = PIECE_BYTES * len(values) // values.nbytes
    if rows:
        for start in range(0, len(values), rows):
            yield values[start : start + rows]
    else:
        for row in values:
            yield from _pieces(row)
