"""Finds the pickle and the storages of a torch file: in zip archives, and the format that torch had before 1.6."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable
from lines_pipeline.io.formats.pickled import PickleError, Reference, ShortPickleError
from lines_pipeline.io.formats.pickles import MAX_PICKLE_BYTES, read_pickle
from lines_pipeline.io.formats.torch_tensors import StorageType, storage_type

MAX_DIRECTORY_BYTES = 64 * 2**20
"""The most bytes of a zip archive's table of contents: more than half a million storages have."""
PIECE_BYTES = 16 * 2**20
"""The bytes that are inflated or copied at a time."""
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The number with which every torch file before 1.6 begins."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_FIRST_PICKLE_BYTES = 2**20


@dataclass(frozen=True)
class Record:
    """Names a stretch of a file: ``nbytes`` of content from ``offset``, deflated to ``deflated_bytes`` if set."""

    offset: int
    nbytes: int
    deflated_bytes: int | None = None


@dataclass(frozen=True)
class TorchArchive:
    """Holds the parts of a torch file: the pickled content, and by key where a storage lies."""

    content: Any
    storage: Callable[[str], Record | None]
    big_endian: bool = False


@contextmanager
def opened_archive(path: Path) -> Iterator[TorchArchive]:
    """Open a torch file and read all but its storages. Raises ``CheckpointError``, also while records are looked up."""
    try:
        with path.open("rb", buffering=0) as file:
            start, size = file.read(len(LEGACY_MAGIC)), os.fstat(file.fileno()).st_size
            yield _read_legacy(file, size) if start == LEGACY_MAGIC else _read_zip(path, file, size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except PickleError as error:
        raise CheckpointError(
            f"{path}: not a state dict of tensors, or damaged ({printable(error)}). Only tensors are loaded, "
            "never pickled objects: save model.state_dict() with torch.save or safetensors."
        ) from error


def content_of(descriptor: int, path: str, record: Record) -> Iterator[bytes]:
    """Yield the content of a record, in pieces. Raises ``CheckpointError`` where it is shorter than the file says."""
    pieces = _stored(
        descriptor, record.offset, record.nbytes if record.deflated_bytes is None else record.deflated_bytes
    )
    bytes_left = record.nbytes
    for piece in pieces if record.deflated_bytes is None else _inflated(path, pieces, record.nbytes):
        bytes_left -= len(piece)
        yield piece
    if bytes_left:
        raise CheckpointError(f"{path}: damaged, a record is {bytes_left} bytes shorter than it should be")


def _stored(descriptor: int, offset: int, nbytes: int) -> Iterator[bytes]:
    while nbytes and (piece := os.pread(descriptor, min(nbytes, PIECE_BYTES), offset)):
        offset, nbytes = offset + len(piece), nbytes - len(piece)
        yield piece


def _inflated(path: str, pieces: Iterable[bytes], nbytes: int) -> Iterator[bytes]:
    """Yield at most ``nbytes`` of what deflated pieces hold."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for deflated in pieces:
            while deflated and nbytes:
                piece = inflater.decompress(deflated, min(nbytes, PIECE_BYTES))
                deflated, nbytes = inflater.unconsumed_tail, nbytes - len(piece)
                yield piece
    except zlib.error as error:
        raise CheckpointError(f"{path}: damaged, a compressed record cannot be read ({error})") from error


class _BoundedFile(io.FileIO):
    """Bounds each read of a file to the size of a table of contents."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise PickleError(f"its table of contents has {size:,} bytes, at most {MAX_DIRECTORY_BYTES:,} are read")
        return super().read(-1 if size is None else size) or b""


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return a zip archive's table of contents."""
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as directory:
            members = directory.filelist
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError, IndexError) as error:
        raise PickleError(f"its table of contents cannot be read: {error}") from error
    by_name = {info.filename: info for info in members}
    if len(by_name) != len(members):
        raise PickleError("its table of contents has a name twice")
    return by_name


def _read_zip(path: Path, file: io.FileIO, size: int) -> TorchArchive:
    members = _members(path)
    _refuse_other_archives(path, members)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError(f"it has {len(pickles)} records 'data.pkl', not one")
    root = pickles[0].removesuffix("data.pkl")

    def record(name: str) -> Record | None:
        info = members.get(root + name)
        return None if info is None else _record(file, info, size)

    pickled, order = record("data.pkl"), record("byteorder")
    assert pickled is not None
    if pickled.nbytes > MAX_PICKLE_BYTES:
        raise PickleError(f"it has {pickled.nbytes:,} bytes beside its tensors, at most {MAX_PICKLE_BYTES:,} are read")
    content = read_pickle(b"".join(content_of(file.fileno(), str(path), pickled))).content
    big = order is not None and order.nbytes < 16 and b"".join(content_of(file.fileno(), str(path), order)) == b"big"
    return TorchArchive(content, lambda key: record(f"data/{key}"), big_endian=big)


def _record(file: io.FileIO, info: zipfile.ZipInfo, size: int) -> Record:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise PickleError("a record is encrypted, or compressed in another way than 'deflate'")
    header = os.pread(file.fileno(), _LOCAL_HEADER.size, info.header_offset) if info.header_offset < size else b""
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise PickleError("a record does not lie where the table of contents says")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    offset = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    deflated = info.compress_size if info.compress_type == zipfile.ZIP_DEFLATED else None
    if offset + info.compress_size > size or (deflated is None and info.compress_size != info.file_size):
        raise PickleError("a record reaches past the end of the file")
    return Record(offset, info.file_size, deflated)


def _refuse_other_archives(path: Path, members: Mapping[str, Any]) -> None:
    """Refuse zip archives that torch, numpy and Keras write of other things than state dicts."""
    names = [name.rpartition("/")[2] for name in members]
    if "constants.pkl" in names:
        finding = "a TorchScript archive, which holds code: save torch.jit.load(file).state_dict() with torch.save"
    elif any(name.startswith("serialized_exported_program") or name == "archive_format" for name in names):
        finding = "a program of torch.export: save torch.export.load(file).state_dict with torch.save"
    elif "extern_modules" in names:
        finding = "a torch.package, which holds code: save the state_dict() of the model in it with torch.save"
    elif members and all(name.endswith(".npy") for name in names):
        finding = "a numpy archive (.npz): save its arrays with safetensors.numpy.save_file"
    elif "model.weights.h5" in names:
        finding = "a Keras model: save its weights as safetensors"
    elif "data.pkl" not in names:
        finding = "a zip archive without a 'data.pkl', so no file of torch.save"
    else:
        return
    raise CheckpointError(f"{path}: {finding}")


def _read_legacy(file: io.FileIO, size: int) -> TorchArchive:
    """Read four pickles (version, system, content, keys of storages), then each storage: its length, its values."""
    available = _FIRST_PICKLE_BYTES
    while True:
        try:
            return _parse_legacy(file, os.pread(file.fileno(), available, 0), size)
        except ShortPickleError as error:
            if available >= min(size, MAX_PICKLE_BYTES):
                raise PickleError(str(error)) from error
            available = min(8 * available, MAX_PICKLE_BYTES)


def _parse_legacy(file: io.FileIO, data: bytes, size: int) -> TorchArchive:
    version = read_pickle(data, len(LEGACY_MAGIC))
    system = read_pickle(data, version.end)
    pickled = read_pickle(data, system.end)
    keys = read_pickle(data, pickled.end)
    types = dict(_referred(reference) for reference in pickled.references)
    if not isinstance(keys.content, list) or not all(isinstance(key, str) and key in types for key in keys.content):
        raise PickleError("its list of storages does not fit its tensors")
    records: dict[str, Record] = {}
    offset = keys.end
    for key in keys.content:
        numel = int.from_bytes(os.pread(file.fileno(), 8, offset), "little")
        records[key] = Record(offset + 8, numel * types[key].item_bytes)
        offset += 8 + records[key].nbytes
        if offset > size:
            raise PickleError("it is cut short")
    return TorchArchive(pickled.content, records.get)


def _referred(reference: Reference) -> tuple[str, StorageType]:
    storage = storage_type(reference)
    if storage is None or storage.item_bytes == 0:
        raise PickleError("it refers to what is no storage of a known type")
    return storage.key, storage
