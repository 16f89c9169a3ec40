"""Packs per-sample results into a form that is small enough to keep: intervals and pairs are made of them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_TYPES: Mapping[str, np.dtype[Any]] = {"bits": np.dtype("uint8"), "f4": np.dtype("<f4"), "i4": np.dtype("<i4")}


@dataclass(frozen=True, eq=False)
class Samples:
    """Holds values of the samples of one task, in the order of its data, by the metric that is their mean.

    ``clusters`` numbers what belongs together (images of one glyph), one number a sample; None: each stands alone.
    """

    values: Mapping[str, Array] = field(default_factory=dict)
    """By metric: bool [n] (right or wrong), or float32 [n]."""
    clusters: Array | None = None
    """int32 [n]."""

    def packed(self) -> dict[str, Any]:
        """Return what JSON can hold: bits for truth values, compressed 4-byte numbers for all else."""
        packed: dict[str, Any] = {"values": {name: _packed(value) for name, value in self.values.items()}}
        return packed if self.clusters is None else {**packed, "clusters": _packed(self.clusters)}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Samples:
        """Return the samples that ``packed`` packed."""
        clusters = packed.get("clusters")
        values = {name: _unpacked(value) for name, value in packed["values"].items()}
        return cls(values, None if clusters is None else _unpacked(clusters))


def _packed(array: Array) -> list[Any]:
    """Return type, number of entries, and the bytes."""
    if array.dtype == np.bool_:
        kind, content = "bits", np.packbits(array).tobytes()
    else:
        kind = "i4" if array.dtype.kind in "iu" else "f4"
        content = array.astype(_TYPES[kind]).tobytes()
    return [kind, len(array), base64.b64encode(zlib.compress(content)).decode("ascii")]


def _unpacked(packed: list[Any]) -> Array:
    kind, count, text = packed
    values = np.frombuffer(zlib.decompress(base64.b64decode(text)), _TYPES[kind])
    return np.unpackbits(values, count=count).astype(np.bool_) if kind == "bits" else values.copy()
