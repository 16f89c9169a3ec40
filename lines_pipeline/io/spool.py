"""Keeps tensors that have to be computed before a run can read them: whole or absent, and checked when used again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.reading import as_bytes
from lines_pipeline.io.write_once import written_once

ZEROS = "zero elsewhere"
"""The tensor that stands for all that are zero; no module's tensor has a blank in its name."""

Place = tuple[Path, dict[str, int], int]


def spool_path(folder: Path, key: str) -> Path:
    """Return where the tensors with this key lie, or would lie."""
    return folder / f"{key[:32]}.safetensors"


def spooled(
    folder: Path, key: str, specs: Sequence[TensorSpec], zeros: int, values: Callable[[], Iterable[torch.Tensor]]
) -> Place:
    """Return the safetensors file of ``specs`` (float32), made of ``values`` in order where no sound one is there.

    Gives its path, the offsets of the tensors by name, and the offset of ``zeros`` zeros, which take no room on most
    disks. Raises ``EngineError`` where the cache cannot be written.
    """
    path = spool_path(folder, key)
    header, offsets, end = _laid_out(specs, zeros)
    nbytes = end + 4 * zeros
    content = f"the update of an adapter ({nbytes / 1e6:,.1f} MB)"
    written_once(path, lambda temporary: _write(temporary, header, values, nbytes), what=content)
    return path, offsets, end


def _laid_out(specs: Sequence[TensorSpec], zeros: int) -> tuple[bytes, dict[str, int], int]:
    """Return the header, and where each tensor and the zeros begin in the file."""
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


def _write(path: Path, header: bytes, values: Callable[[], Iterable[torch.Tensor]], nbytes: int) -> None:
    with path.open("xb") as file:
        file.write(header)
        for value in values():
            file.write(as_bytes(value.contiguous()))
        file.truncate(nbytes)
