"""Keeps tensors that have to be computed before a run can read them: whole or absent, and checked when used again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from lines_pipeline.core.errors import EngineError
from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.io.entries import file_digest, read_entry, write_entry
from lines_pipeline.io.reading import as_bytes
from lines_pipeline.io.temporaries import temporary_path

ZEROS = "zero elsewhere"
"""The tensor that stands for all that are zero; no module's tensor has a blank in its name."""

Place = tuple[Path, dict[str, int], int]


def spooled(
    folder: Path, key: str, specs: Sequence[TensorSpec], zeros: int, values: Callable[[], Iterable[torch.Tensor]]
) -> Place:
    """The safetensors file of ``specs`` (float32), made of ``values`` in their order where no sound one is there yet.

    Gives its path, the offsets of the tensors by name, and the offset of ``zeros`` zeros, which take no room on most
    disks. Raises ``EngineError`` where the cache's disk is full.
    """
    path = folder / f"{key[:32]}.safetensors"
    header, offsets, end = _laid_out(specs, zeros)
    if not _is_sound(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        _write(path, header, values, end + 4 * zeros)
    return path, offsets, end


def _laid_out(specs: Sequence[TensorSpec], zeros: int) -> tuple[bytes, dict[str, int], int]:
    """The header, and where each tensor and the zeros begin in the file."""
    entries: dict[str, object] = {}
    offset = 0
    for spec in (*specs, TensorSpec(ZEROS, "float32", (zeros,))):
        span = [offset, offset + spec.nbytes]
        entries[spec.name] = {"dtype": "F32", "shape": list(spec.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-(len(text) + 8) // 64) * 64 - 8)
    header = len(text).to_bytes(8, "little") + text
    starts, place = {}, len(header)
    for spec in specs:
        starts[spec.name] = place
        place += spec.nbytes
    return header, starts, place


def _is_sound(path: Path) -> bool:
    """Whether a file is there, and as it was made."""
    notes = read_entry(path.with_suffix(".json"))
    try:
        return path.is_file() and notes == {"bytes": path.stat().st_size, "digest": file_digest(path)}
    except OSError:
        return False


def _write(path: Path, header: bytes, values: Callable[[], Iterable[torch.Tensor]], nbytes: int) -> None:
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            file.write(header)
            for value in values():
                file.write(as_bytes(value.contiguous()))
            file.truncate(nbytes)
        write_entry(path.with_suffix(".json"), {"bytes": nbytes, "digest": file_digest(temporary)})
        _adopt(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise EngineError(f"{path}: the cache cannot be written ({error.strerror}); set XDG_CACHE_HOME") from error
        raise EngineError(
            f"{path}: the cache's disk is full, {nbytes / 1e6:,.1f} MB are needed for the update of an adapter; "
            "free some space, or set XDG_CACHE_HOME"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _adopt(temporary: Path, path: Path) -> None:
    """Give a complete file its name, unless a process beside this one has made the same file meanwhile and reads it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        os.replace(temporary, path)
