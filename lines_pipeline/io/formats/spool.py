"""Rewrites tensors of torch files that are not plain bytes in order, once, as a safetensors file of the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import ITEM_BYTES, TensorSpec
from lines_pipeline.io.checkpoint import SourceFile, StoredTensor
from lines_pipeline.io.formats.safetensors import read_header, write_header
from lines_pipeline.io.formats.torch_archives import PIECE_BYTES, Record, content_of
from lines_pipeline.io.formats.torch_tensors import TensorView
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.io.write_once import written_once

VERSION = 3
"""Raise it when what is written changes: earlier files are then not used."""
MAX_GROWTH = 16
SMALL_BYTES = 64 * 2**20
"""Tensors may take this much, or ``MAX_GROWTH`` times their file, when they are written out."""


@dataclass(frozen=True)
class Scattered:
    """Describes a tensor whose values are not plain bytes in order: compressed, byte-swapped, strided or negated."""

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
    """Return the tensors as plain bytes in a file of ``folder``: an earlier one if it is whole, else a new one."""
    identity = [VERSION, list(astuple(source)), part, sorted(tensors)]
    target = folder / f"{content_key(identity)[:32]}.safetensors"
    written_once(target, lambda path: _write(source, tensors, path, big_endian=big_endian), what=source.path)
    return read_header(target).tensors


def _write(source: SourceFile, tensors: Mapping[str, Scattered], target: Path, *, big_endian: bool) -> None:
    specs = [TensorSpec(name, tensors[name].view.dtype, tensors[name].view.shape) for name in sorted(tensors)]
    header = write_header(specs, {})
    with _storages(source.path, target) as storages, target.open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for spec in specs:
            if spec.numel:
                file.writelines(_values(tensors[spec.name], storages, big_endian=big_endian))


@contextmanager
def _storages(path: str, target: Path) -> Iterator[Callable[[Record], np.ndarray[Any, Any]]]:
    """Yield a function that maps the bytes of a record of ``path``; inflated ones lie beside ``target`` meanwhile."""
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
    """Yield the values of a tensor in order, in pieces."""
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
    """Yield parts of an array that fit into memory, in order."""
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
