"""Opens checkpoints of any format: files and folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.checkpoint import TORCH_SUFFIXES, Checkpoint, SourceFile, exists, missing_file, require_readable
from lines_pipeline.io.formats.foreign import refuse_foreign_file, refuse_foreign_folder
from lines_pipeline.io.formats.plugins import open_by_plugin
from lines_pipeline.io.formats.safetensors import open_safetensors_file
from lines_pipeline.io.formats.torch import open_torch_file
from lines_pipeline.io.model_folders import open_folder


def open_checkpoint(path: Path, *, uri: str | None = None, spool: Path | None = None, key: str = "") -> Checkpoint:
    """Read and check the headers of a file or folder; no tensor is read.

    ``key`` chooses a state dict of torch files that nest several. Torch files whose tensors are not contiguous bytes
    are rewritten once into the folder ``spool``; without one their headers are still told, at offset -1. Raises
    ``CheckpointError`` naming the file, the tensor and the remedy.
    """
    return require_readable(open_leniently(path, uri=uri, spool=spool, key=key))


def open_leniently(path: Path, *, uri: str | None = None, spool: Path | None = None, key: str = "") -> Checkpoint:
    """Open as ``open_checkpoint`` does; tell unreadable tensors in ``unreadable`` (see ``require_readable``)."""
    uri = uri or str(path)
    if os.path.isdir(path):  # unlike that of pathlib, it also says no to names that are too long
        refuse_foreign_folder(path)
        return replace(open_folder(path, lambda file: _open_file(file, spool, key)), uri=uri)
    if not exists(path):
        raise CheckpointError(missing_file(path))
    return replace(_open_file(path, spool, key), uri=uri)


def _open_file(path: Path, spool: Path | None, key: str = "") -> Checkpoint:
    SourceFile.of(path)  # before anything is read: opening a pipe would wait for ever
    offered = open_by_plugin(path)
    if offered is not None:
        return offered
    refuse_foreign_file(path)
    if path.name.lower().endswith(TORCH_SUFFIXES):
        return open_torch_file(path, spool, key)
    if key:
        raise CheckpointError(f"{path}: 'key' is for torch files; a safetensors file holds one set of tensors")
    return open_safetensors_file(path)
