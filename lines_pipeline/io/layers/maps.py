"""Declares layer maps: towers, stacks outside them, and the block of every tensor."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from lines_pipeline.io.layers.ends import is_before_blocks, nearest_tower
from lines_pipeline.io.layers.words import Role

SHOWN_SHARE = 0.01
"""Stacks outside every tower are named from this share of the parameters on."""


@dataclass(frozen=True)
class Tower:
    """Holds blocks that a forward pass takes one after the other: the tensors of each, from the first block on."""

    path: str
    """Where the blocks stand in the names, such as ``visual.transformer.resblocks.N``."""
    blocks: tuple[tuple[str, ...], ...]
    role: Role = Role.DEPTH
    """The role that the name of the list tells."""


@dataclass(frozen=True)
class OutsideStack:
    """Describes a repeated stack that is in no tower, or the part of it that is in none."""

    path: str
    tensors: tuple[str, ...]
    reason: str
    counted: bool
    """Whether it may have been depth: false for what is known to lie before, after or between blocks."""
    is_lone: bool = False
    """Whether it is a single block."""


@dataclass(frozen=True)
class LayerMap:
    """Maps towers to depths (numbers of blocks), and tensors to (tower, index from 0); others are in no block."""

    family: str
    depths: Mapping[str, int]
    blocks: Mapping[str, tuple[str, int]]
    paths: Mapping[str, str] = field(default_factory=dict)
    """Where each tower's blocks stand in the names."""
    stacks: tuple[OutsideStack, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Number of values of every floating-point tensor of the model."""
    is_given: bool = False
    """Whether a user gave the patterns."""

    def place(self, name: str) -> tuple[int, int] | None:
        """Return the index and the depth of the block that a tensor is in, or None outside the blocks."""
        if name not in self.blocks:
            return None
        tower, index = self.blocks[name]
        return index, self.depths[tower]

    def nearest_end(self, name: str) -> tuple[str, int]:
        """Return the tower that a tensor outside the blocks belongs to, and its first or last block."""
        tower = nearest_tower(name, {tower: self.paths.get(tower, "") for tower in self.depths})
        return tower, 0 if is_before_blocks(name) else self.depths[tower] - 1

    def outside(self, scaled: Container[str] | None = None) -> tuple[tuple[OutsideStack, float], ...]:
        """Return the stacks outside every tower that hold 1 % of the parameters or more, each with its share.

        Only tensors in ``scaled`` count, where it is given: what a delta does not hold is not scaled.
        """
        shares = ((stack, self._share(stack, scaled)) for stack in self.stacks)
        return tuple((stack, share) for stack, share in shares if share >= SHOWN_SHARE)

    def _share(self, stack: OutsideStack, scaled: Container[str] | None) -> float:
        names = stack.tensors if scaled is None else [name for name in stack.tensors if name in scaled]
        return sum(self.sizes[name] for name in names) / max(sum(self.sizes.values()), 1)

    def shares(self) -> dict[str, float]:
        """Return the share of the parameters that each tower holds."""
        held = dict.fromkeys(self.depths, 0)
        for name, (tower, _) in self.blocks.items():
            held[tower] += self.sizes.get(name, 0)
        total = max(sum(self.sizes.values()), 1)
        return {tower: numel / total for tower, numel in held.items()}

    def to_dict(self, scaled: Container[str] | None = None) -> dict[str, Any]:
        """Return the map in plain values, without the block of every tensor."""
        return {
            "family": self.family,
            "depths": dict(self.depths),
            "paths": dict(self.paths),
            "shares": {tower: round(share, 4) for tower, share in self.shares().items()},
            "in_no_tower": [
                {"stack": stack.path, "share": round(share, 4), "reason": stack.reason}
                for stack, share in self.outside(scaled)
            ],
        }
