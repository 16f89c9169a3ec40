"""Summarises a checkpoint: tensors, data types, blocks and norms, read block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL
from lines_pipeline.io.checkpoint import Checkpoint, StoredTensor
from lines_pipeline.io.digests import identify
from lines_pipeline.io.layers import LayerMap, find_layers
from lines_pipeline.io.reading import BlockReader


def summarize(checkpoint: Checkpoint, *, headers: bool = False) -> dict[str, Any]:
    """Return plain values: ``digest``, ``parameters``, ``bytes``, ``dtypes``, the layer map and a row for every tensor.

    With ``headers`` no tensor is read, and neither digest nor norms are told.
    """
    layers, problem = _layers(checkpoint)
    rows = [_row(stored, layers) for stored in checkpoint.tensors.values()]
    read: dict[str, Any] = {}
    if not headers:
        _add_norms(rows, checkpoint)
        read = {"digest": identify(checkpoint).digest}
    return {
        "uri": checkpoint.uri,
        **read,
        "parameters": sum(stored.spec.numel for stored in checkpoint.tensors.values()),
        "bytes": sum(stored.spec.nbytes for stored in checkpoint.tensors.values()),
        "dtypes": sorted({stored.spec.dtype for stored in checkpoint.tensors.values()}),
        **(layers.to_dict() if layers else {"family": None, "depths": {}, "problem": problem}),
        "aliases": dict(checkpoint.aliases),
        "metadata": sorted(checkpoint.metadata),
        "notes": list(checkpoint.notes),
        "unreadable": dict(checkpoint.unreadable),
        "tensors": rows,
    }


def _layers(checkpoint: Checkpoint) -> tuple[LayerMap | None, str]:
    """Return the layer map, or None and why there is none."""
    specs = (stored.spec for stored in checkpoint.tensors.values())
    try:
        return find_layers({spec.name: spec.numel for spec in specs if spec.is_floating}), ""
    except PlanError as error:
        return None, str(error)


def _add_norms(rows: Sequence[dict[str, Any]], checkpoint: Checkpoint) -> None:
    reader = BlockReader()
    try:
        for row in rows:
            row["norm"] = _norm(reader, checkpoint.tensors[row["name"]])
    finally:
        reader.close()


def _norm(reader: BlockReader, stored: StoredTensor) -> float:
    spec = stored.spec
    squares = []
    for start in range(0, spec.numel, BLOCK_NUMEL):
        block = reader.block(stored, start, min(start + BLOCK_NUMEL, spec.numel))
        squares.append(float(block.to(torch.float64).square().sum()))
    return math.sqrt(math.fsum(squares))


def _row(stored: StoredTensor, layers: LayerMap | None) -> dict[str, Any]:
    spec = stored.spec
    place = layers.blocks.get(spec.name) if layers else None
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "block": f"{place[0]} {place[1]}" if place else "",
    }
