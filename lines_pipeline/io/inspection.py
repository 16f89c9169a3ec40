"""Summarises a checkpoint: tensors, data types, blocks and norms, read block by block."""

from __future__ import annotations

import math
from typing import Any

import torch

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.tensors import BLOCK_NUMEL
from lines_pipeline.io.checkpoints import Checkpoint, StoredTensor
from lines_pipeline.io.layers import LayerMap, find_layers
from lines_pipeline.io.reading import BlockReader


def summarize(checkpoint: Checkpoint) -> dict[str, Any]:
    """Plain values: ``parameters``, ``bytes``, ``dtypes``, ``family``, ``depths`` and a row for every tensor."""
    layers = _layers(checkpoint)
    reader = BlockReader()
    try:
        rows = [_row(reader, stored, layers) for stored in checkpoint.tensors.values()]
    finally:
        reader.close()
    return {
        "uri": checkpoint.uri,
        "parameters": sum(stored.spec.numel for stored in checkpoint.tensors.values()),
        "bytes": sum(stored.spec.nbytes for stored in checkpoint.tensors.values()),
        "dtypes": sorted({stored.spec.dtype for stored in checkpoint.tensors.values()}),
        "family": layers.family if layers else None,
        "depths": dict(layers.depths) if layers else {},
        "aliases": dict(checkpoint.aliases),
        "metadata": sorted(checkpoint.metadata),
        "tensors": rows,
    }


def _layers(checkpoint: Checkpoint) -> LayerMap | None:
    try:
        return find_layers(checkpoint.tensors)
    except PlanError:
        return None


def _row(reader: BlockReader, stored: StoredTensor, layers: LayerMap | None) -> dict[str, Any]:
    spec = stored.spec
    squares = []
    for start in range(0, spec.numel, BLOCK_NUMEL):
        block = reader.block(stored, start, min(start + BLOCK_NUMEL, spec.numel))
        squares.append(float(block.to(torch.float64).square().sum()))
    place = layers.blocks.get(spec.name) if layers else None
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "block": f"{place[0]} {place[1]}" if place else "",
        "norm": math.sqrt(math.fsum(squares)),
    }
