"""Reads and writes masks in files: one boolean tensor each, or packed, 8 values in a byte."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.checkpoint import Checkpoint, StoredTensor

VALUE_TYPE = "type"
"""The header's entry that tells a saved task vector (``delta``), ``mask`` or ``statistics`` from a model."""
SHAPES = "packed"
"""The header's entry with the shapes of packed tensors, by name."""


def packed_shapes(specs: Sequence[TensorSpec]) -> str:
    """Return the header's entry for packed tensors of these shapes."""
    return canonical_json({spec.name: list(spec.shape) for spec in specs})


def unpacked(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose packed tensors have the shapes that they were saved with."""
    if SHAPES not in checkpoint.metadata:
        return checkpoint
    shapes = _shapes(checkpoint)
    return replace(checkpoint, tensors={n: _unpacked(checkpoint, t, shapes) for n, t in checkpoint.tensors.items()})


def _shapes(checkpoint: Checkpoint) -> Mapping[str, Any]:
    try:
        shapes = json.loads(checkpoint.metadata[SHAPES])
    except (ValueError, RecursionError) as error:
        raise _damaged(checkpoint) from error
    if not isinstance(shapes, dict):
        raise _damaged(checkpoint)
    return shapes


def _unpacked(checkpoint: Checkpoint, stored: StoredTensor, shapes: Mapping[str, Any]) -> StoredTensor:
    spec, shape = stored.spec, shapes.get(stored.spec.name)
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise _damaged(checkpoint, spec.name)
    if spec.dtype != "uint8" or spec.shape != (-(-math.prod(shape) // 8),):
        raise _damaged(checkpoint, spec.name)
    return replace(stored, spec=TensorSpec(spec.name, "bool", tuple(shape)), packed=True)


def _damaged(checkpoint: Checkpoint, tensor: str = "") -> CheckpointError:
    where = f": tensor '{tensor}'" if tensor else ""
    return CheckpointError(
        f"{checkpoint.uri}{where}: the header's entry '{SHAPES}' does not tell a packed mask's shape; save it again"
    )
