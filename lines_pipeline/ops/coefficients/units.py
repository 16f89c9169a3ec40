"""Which tensors share their coefficients, and what these start from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.depth import Place, place_of

Per = Literal["tensor", "block", "task"]


@dataclass(frozen=True)
class Unit:
    """Tensors that share one coefficient a task vector."""

    name: str
    tensors: tuple[str, ...]
    place: Place | None = None
    """The block that they are in; None outside the blocks, or where blocks are not told apart."""


def units_of(per: Per, tensors: Iterable[str], layers: LayerMap | None) -> tuple[Unit, ...]:
    """Return the units of a model's tensors, in the order of their first tensors."""
    if per == "task":
        return (Unit("all", tuple(tensors)),)
    if per == "tensor":
        return tuple(Unit(name, (name,), _place(name, layers)) for name in tensors)
    assert layers is not None
    blocks: dict[tuple[str, int] | None, list[str]] = {}
    for name in tensors:
        blocks.setdefault(layers.blocks.get(name), []).append(name)
    return tuple(
        Unit("outside" if block is None else f"{block[0]} {block[1]}", tuple(names), _place(names[0], layers))
        for block, names in blocks.items()
    )


def line(place: Place | None, vectors: int, beta: float) -> float:
    """Return what LiNeS scales the plain sum of so many task vectors by, in a block: alpha is 1 over their number."""
    alpha = 1.0 / vectors
    return alpha if place is None else alpha + beta * place.block / (place.depth - 1)


def _place(name: str, layers: LayerMap | None) -> Place | None:
    if layers is None or name not in layers.blocks:
        return None
    return place_of(layers, layers.blocks[name])
