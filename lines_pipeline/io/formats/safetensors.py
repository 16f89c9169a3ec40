"""Reads and distrusts the header of a safetensors file: everything is checked before a payload byte is used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.checkpoint import Checkpoint, SourceFile, StoredTensor

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
UNSUPPORTED_BITS = {
    "C64": 64,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of a value in the format's data types that merges do not know."""
MAX_HEADER_BYTES = 100_000_000
"""The most bytes of a header: the format's own bound."""
METADATA = "__metadata__"

_SIZE_LIMIT = 2**64
"""The format counts values and bits of a tensor in 64 bits."""
_DIMENSION_LIMIT = 2**63
"""No tensor of torch has a longer side."""
_DAMAGED = "The file is damaged or cut short: download or save it again."
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


@dataclass(frozen=True)
class Header:
    """Holds the tensors and metadata of a safetensors header; ``unreadable`` says why other tensors cannot be read."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    unreadable: Mapping[str, str]


def open_safetensors_file(path: Path) -> Checkpoint:
    """Open a safetensors file; ``CheckpointError`` naming what is wrong with its header."""
    source = SourceFile.of(path)
    header = read_header(path)
    return Checkpoint(str(path), (source,), header.tensors, metadata=header.metadata, unreadable=header.unreadable)


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file; tensors are sorted by name."""
    entries, start, size = _parse(path)
    metadata = entries.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: the header's {METADATA} is not a map of texts. {_DAMAGED}")
    tensors: dict[str, StoredTensor] = {}
    unreadable: dict[str, str] = {}
    spans: list[tuple[int, int, str]] = []
    for name in sorted(entries):
        code, shape, (begin, end) = _fields(path, name, entries[name])
        spans.append((begin, end, name))
        if code in DTYPES:
            tensors[name] = StoredTensor(TensorSpec(name, DTYPES[code], shape), str(path), start + begin)
        else:
            unreadable[name] = f"has data type {code}, which is not supported (known: {', '.join(DTYPES)})"
    _check_cover(path, spans, size - start)
    return Header(tensors, metadata, unreadable)


def write_header(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Return the JSON of the header of a file that holds tensors side by side in this order."""
    entries: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for spec in specs:
        span = [offset, offset + spec.nbytes]
        entries[spec.name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": span}
        offset = span[1]
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()


_CODES = {name: code for code, name in DTYPES.items()}


def _parse(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header's entries, where the payload begins, and the size of the file."""
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
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        entries = _entries(raw)
    except (ValueError, RecursionError) as error:
        reason = printable(error)
        raise CheckpointError(f"{path}: the header is not that of a safetensors file ({reason}). {_DAMAGED}") from error
    return entries, 8 + length, size


def _entries(raw: bytes) -> dict[str, Any]:
    _check_containers(raw)
    entries = json.loads(
        raw.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_no_constant
    )
    if not isinstance(entries, dict):
        raise ValueError("not a JSON object")
    return entries


def _check_containers(raw: bytes) -> None:
    """Refuse lists and objects that no tensor needs: read into memory, they would take many times the header."""
    bare = _STRING.sub(b'""', raw)
    allowed = 2 + 3 * raw.count(b'"data_offsets"')
    if bare.count(b"[") + bare.count(b"{") > allowed or bare.count(b",") > 100 * allowed:
        raise ValueError("it has more lists than tensors have shapes and offsets")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name occurs twice")
    for name in entries:
        if not name.isascii():
            name.encode()  # half of a surrogate pair is no text: a ValueError
    return entries


def _integer(digits: str) -> int:
    if digits[0] == "-" or len(digits) > 20:
        raise ValueError(f"{digits[:20]} is no size")
    return int(digits)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _fields(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Return data type, shape and span of a tensor, checked against each other."""
    where = f"{path}: tensor '{printable(name)}'"
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(value) is int for value in (*shape, begin, end))
        if not whole or not isinstance(code, str) or max(shape, default=0) >= _DIMENSION_LIMIT:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where} has a malformed header entry. {_DAMAGED}") from error
    if code not in DTYPES and code not in UNSUPPORTED_BITS:
        shown = printable(code)
        raise CheckpointError(f"{where} has data type {shown}, which is not supported (known: {', '.join(DTYPES)})")
    bits = UNSUPPORTED_BITS.get(code) or 8 * TensorSpec(name, DTYPES[code], ()).nbytes
    nbytes = _nbytes(shape, bits)
    if nbytes is None:
        raise CheckpointError(f"{where} has shape {printable(list(shape))}, more than a file can hold. {_DAMAGED}")
    if end - begin != nbytes:
        raise CheckpointError(f"{where} should take {nbytes} bytes, its header says {end - begin}. {_DAMAGED}")
    return code, shape, (begin, end)


def _nbytes(shape: Sequence[int], bits: int) -> int | None:
    """Return the bytes of a tensor; None for a shape that the format refuses: an overflow, a part of a byte."""
    numel = 1
    for length in shape:
        numel *= length
        if numel >= _SIZE_LIMIT:
            return None
    return numel * bits // 8 if numel * bits < _SIZE_LIMIT and not numel * bits % 8 else None


def _check_cover(path: Path, spans: list[tuple[int, int, str]], nbytes: int) -> None:
    """Require that tensors lie side by side, without holes or overlaps, to the end of the file."""
    spans.sort()
    for (_, end, _), (begin, _, name) in pairwise([(0, 0, ""), *spans]):
        if begin != end:
            shown = printable(name)
            raise CheckpointError(f"{path}: tensor '{shown}' overlaps another or leaves a hole. {_DAMAGED}")
    end = spans[-1][1] if spans else 0
    if end != nbytes:
        raise CheckpointError(f"{path}: has {nbytes} bytes of tensors, its header asks for {end}. {_DAMAGED}")
