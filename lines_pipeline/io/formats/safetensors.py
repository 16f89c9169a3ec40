"""Reads and distrusts the header of a safetensors file: everything is checked before a payload byte is used."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.io.checkpoints import StoredTensor

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""

_DAMAGED = "The file is damaged or cut short: download or save it again."


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors (sorted by name) and metadata of a safetensors file."""
    header, start, size = _parse(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: the header's __metadata__ is not a map of texts. {_DAMAGED}")
    tensors = {name: _tensor(path, name, header[name], start) for name in sorted(header)}
    _check_cover(path, tensors, start, size)
    return tensors, metadata


def _parse(path: Path) -> tuple[dict[str, Any], int, int]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if prefix.startswith(b"version "):
                raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run 'git lfs pull'")
            if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{path}: not a safetensors file, or cut short ({size} bytes). {_DAMAGED}")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON ({error}). {_DAMAGED}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object. {_DAMAGED}")
    return header, 8 + length, size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _tensor(path: Path, name: str, entry: Any, start: int) -> StoredTensor:
    where = f"{path}: tensor '{name}'"
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(value) is int and value >= 0 for value in (*shape, begin, end)):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where} has a malformed header entry. {_DAMAGED}") from error
    if dtype not in DTYPES:
        raise CheckpointError(f"{where} has data type {dtype}, which is not supported (known: {', '.join(DTYPES)})")
    spec = TensorSpec(name, DTYPES[dtype], shape)
    if end - begin != spec.nbytes:
        raise CheckpointError(f"{where} should take {spec.nbytes} bytes, its header says {end - begin}. {_DAMAGED}")
    return StoredTensor(spec, str(path), start + begin)


def _check_cover(path: Path, tensors: dict[str, StoredTensor], start: int, size: int) -> None:
    """Tensors lie side by side, without holes or overlaps, to the end of the file."""
    spans = sorted((t.offset, t.offset + t.spec.nbytes, name) for name, t in tensors.items())
    for (_, end, _), (begin, _, name) in pairwise([(0, start, ""), *spans]):
        if begin != end:
            raise CheckpointError(f"{path}: tensor '{name}' overlaps another or leaves a hole. {_DAMAGED}")
    end = spans[-1][1] if spans else start
    if end != size:
        raise CheckpointError(f"{path}: {size} bytes long, its header asks for {end}. {_DAMAGED}")
