"""Opens torch checkpoints without running what they contain: tensors are bytes at offsets, no tensor data is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import ITEM_BYTES, TensorSpec
from lines_pipeline.io.checkpoint import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.formats.pickled import Call
from lines_pipeline.io.formats.safetensors import METADATA
from lines_pipeline.io.formats.spool import Scattered, check_growth, spooled
from lines_pipeline.io.formats.state_dicts import find_state_dict
from lines_pipeline.io.formats.torch_archives import Record, TorchArchive, opened_archive
from lines_pipeline.io.formats.torch_tensors import TensorView, UnreadableTensorError, tensor_view


def open_torch_file(path: Path, spool: Path | None, key: str = "") -> Checkpoint:
    """Open the state dict with this key (default: the usual one) of a ``.pt`` / ``.bin`` file.

    What does not lie there as plain bytes in order is rewritten into the folder ``spool``; without one it is told at
    offset -1. Raises ``CheckpointError``.
    """
    source = SourceFile.of(path)
    with opened_archive(path) as archive:
        state_dict = find_state_dict(str(path), archive.content, key)
        views, aliases, unreadable = _views(state_dict.tensors)
        plain: dict[str, StoredTensor] = {}
        scattered: dict[str, Scattered] = {}
        for name, view in views.items():
            record = _record(path, name, view, archive)
            if record.deflated_bytes is None and _is_plain(view, archive):
                offset = record.offset + view.offset * ITEM_BYTES[view.dtype] if view.numel else 0
                plain[name] = StoredTensor(TensorSpec(name, view.dtype, view.shape), str(path), offset)
            else:
                scattered[name] = Scattered(view, record)
        check_growth(source, scattered)
        placed = _placed(source, state_dict.key, scattered, spool, archive)
    tensors = dict(sorted({**plain, **placed}.items()))
    return Checkpoint(
        str(path), (source,), tensors, aliases, notes=state_dict.notes, unreadable=unreadable, part=state_dict.key
    )


def _views(pickled: Mapping[str, Call]) -> tuple[dict[str, TensorView], dict[str, str], dict[str, str]]:
    """Return tensors by first name, second names of tied ones (the same values of one storage), and unreadable ones."""
    first: dict[Any, str] = {}
    views: dict[str, TensorView] = {}
    aliases: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for name in sorted(pickled):
        try:
            view = tensor_view(pickled[name])
            _check_name(name)
        except UnreadableTensorError as error:
            unreadable[name] = str(error)
            continue
        place = (view.storage.key, view.dtype, view.shape, view.strides, view.offset, view.negated)
        if view.numel and place in first:
            aliases[name] = first[place]
        else:
            first[place], views[name] = name, view
    return views, aliases, unreadable


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UnreadableTensorError("has a name that is no valid Unicode text") from error
    if name == METADATA:
        raise UnreadableTensorError("has a name that safetensors files keep for something else")


def _record(path: Path, name: str, view: TensorView, archive: TorchArchive) -> Record:
    """Return where a tensor's storage lies; a tensor without values needs none."""
    record = archive.storage(view.storage.key) if view.numel else Record(0, 0)
    needed = view.storage.numel * view.storage.item_bytes if view.numel else 0
    if record is None or record.nbytes < needed:
        lacks = "is missing" if record is None else f"has {record.nbytes:,} bytes, not {needed:,}"
        raise CheckpointError(f"{path}: damaged, the storage of tensor '{printable(name)}' {lacks}")
    return record


def _is_plain(view: TensorView, archive: TorchArchive) -> bool:
    swapped = archive.big_endian and ITEM_BYTES[view.dtype] > 1
    return not view.numel or (view.is_contiguous and not view.negated and not swapped)


def _placed(
    source: SourceFile, part: str, scattered: Mapping[str, Scattered], spool: Path | None, archive: TorchArchive
) -> Mapping[str, StoredTensor]:
    if spool is not None and scattered:
        return spooled(source, part, scattered, spool, big_endian=archive.big_endian)
    return {
        name: StoredTensor(TensorSpec(name, tensor.view.dtype, tensor.view.shape), source.path, -1)
        for name, tensor in scattered.items()
    }
