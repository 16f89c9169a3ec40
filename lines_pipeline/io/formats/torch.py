"""Opens torch checkpoints without running what they contain: ``weights_only=True``, and no tensor data read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.keys import content_key
from lines_pipeline.core.tensors import ITEM_BYTES, TensorSpec
from lines_pipeline.io.checkpoints import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.formats.safetensors import read_header
from lines_pipeline.io.temporaries import temporary_path

_NESTED = ("state_dict", "model", "model_state_dict")


def open_torch_file(path: Path, spool: Path | None) -> Checkpoint:
    """A ``.pt`` / ``.bin`` file as bytes at offsets; what is not contiguous in it is spooled as safetensors."""
    source = SourceFile.of(path)
    state = _load(path)
    tensors, aliases = _split_tied(path, state)
    specs = {name: _spec(path, name, tensor) for name, tensor in tensors.items()}
    offsets = {name: _offset(path, tensor) for name, tensor in tensors.items()}
    if all(offset is not None for offset in offsets.values()):
        stored = {name: StoredTensor(specs[name], str(path), offsets[name] or 0) for name in specs}
        return Checkpoint(str(path), (source,), stored, aliases)
    if spool is None:
        stored = {name: StoredTensor(spec, str(path), -1) for name, spec in specs.items()}
        return Checkpoint(str(path), (source,), stored, aliases)
    spooled, _ = read_header(_spool(source, tensors, spool))
    return Checkpoint(str(path), (source,), spooled, aliases)


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # whatever a hostile or damaged pickle makes torch raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise CheckpointError(
            f"{path}: not a state dict of tensors, or damaged ({reason}). Only tensors are "
            "loaded, never pickled objects: save model.state_dict() with torch.save or safetensors."
        ) from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: expected a state dict (names to tensors), got {type(content).__name__}")
    odd = [name for name, value in content.items() if not isinstance(value, torch.Tensor) or not isinstance(name, str)]
    if odd:
        raise CheckpointError(f"{path}: '{odd[0]}' is a {type(content[odd[0]]).__name__}, not a tensor")
    for name, value in content.items():
        _spec(path, name, value)
    return dict(content)


def _split_tied(path: Path, state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by first name, and second names of the same storage, offset, shape and type."""
    first: dict[Any, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name in sorted(state):
        value = state[name]
        place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and place in first:
            aliases[name] = first[place]
        else:
            first[place], tensors[name] = name, value
    return tensors, aliases


def _spec(path: Path, name: str, tensor: torch.Tensor) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES or tensor.layout is not torch.strided:
        raise CheckpointError(f"{path}: tensor '{name}' is {dtype} ({tensor.layout}), which is not supported")
    return TensorSpec(name, dtype, tuple(tensor.shape))


def _offset(path: Path, tensor: torch.Tensor) -> int | None:
    """Where a memory-mapped tensor's bytes begin in the file; None if they are not contiguous there."""
    if not tensor.numel():
        return 0
    storage = tensor.untyped_storage()
    start: int | None = getattr(storage, "_checkpoint_offset", None)
    if start is None:
        start = _mapped_offset(path, storage.data_ptr())
    if start is None or not tensor.is_contiguous():
        return None
    return int(start + tensor.storage_offset() * tensor.element_size())


def _mapped_offset(path: Path, address: int) -> int | None:
    """The offset in ``path`` that a memory address maps, as the operating system tells it."""
    target = os.path.realpath(path)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            begin, end = (int(part, 16) for part in fields[0].split("-"))
            if begin <= address < end:
                mapped = len(fields) == 6 and os.path.realpath(fields[5]) == target
                return address - begin + int(fields[2], 16) if mapped else None
    return None


def _spool(source: SourceFile, tensors: Mapping[str, torch.Tensor], spool: Path) -> Path:
    from safetensors.torch import save_file

    spool.mkdir(parents=True, exist_ok=True)
    identity = [source.path, source.size, source.mtime_ns, source.inode]
    target = spool / f"{content_key(identity)[:32]}.safetensors"
    if not target.exists():
        temporary = temporary_path(target)
        save_file({name: value.clone().contiguous() for name, value in tensors.items()}, temporary)
        os.replace(temporary, target)
    os.utime(target)  # when it was last used
    return target
