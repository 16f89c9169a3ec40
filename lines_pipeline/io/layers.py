"""Layer maps: which block of which tower each tensor belongs to, for every family of models that is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lines_pipeline.core.errors import PlanError

_OUTSIDE_VISION = r"(?<!vision_model\.encoder\.)(?<!text_model\.encoder\.)"


@dataclass(frozen=True)
class Family:
    """A family of models: patterns by tower, the block's index being the named groups' numbers in order.

    ``cumulative`` families count blocks over stages: the index in a stage follows the blocks of earlier stages.
    """

    name: str
    towers: Mapping[str, str]
    cumulative: bool = False


FAMILIES = (
    Family(
        "open_clip",
        {
            "visual": r"(?:^|\.)visual\.transformer\.resblocks\.(\d+)\.",
            "text": r"(?<!visual\.)(?<![\w])transformer\.resblocks\.(\d+)\.",
        },
    ),
    Family("open_clip with a timm trunk", {"visual": r"(?:^|\.)visual\.trunk\.blocks\.(\d+)\."}),
    Family("LLaVA", {"text": r"(?:^|\.)language_model\.(?:model\.)?layers\.(\d+)\."}),
    Family(
        "HF CLIP, SigLIP",
        {
            "visual": r"(?:^|\.)vision_model\.encoder\.layers\.(\d+)\.",
            "text": r"(?:^|\.)text_model\.encoder\.layers\.(\d+)\.",
        },
    ),
    Family("HF ViT, DINOv2, BERT, RoBERTa", {"encoder": r"(?:^|\.)encoder\.layer\.(\d+)\."}),
    Family("T5", {"encoder": r"(?:^|\.)encoder\.block\.(\d+)\.", "decoder": r"(?:^|\.)decoder\.block\.(\d+)\."}),
    Family("ConvNeXt (timm)", {"stages": r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)\."}, cumulative=True),
    Family("ConvNeXt (HF)", {"stages": r"(?:^|\.)stages\.(\d+)\.layers\.(\d+)\."}, cumulative=True),
    Family("ResNet", {"stages": r"(?:^|\.)layer([1-4])\.(\d+)\."}, cumulative=True),
    Family("timm ViT", {"blocks": r"^(?:module\.|model\.|backbone\.)?blocks\.(?:\d+\.)*?(\d+)\.(?!\d)"}),
    Family("GPT-2", {"h": r"(?:^|\.)h\.(\d+)\."}),
    Family("LLaMA, Mistral, Qwen", {"layers": r"(?:^|\.)layers\.(\d+)\."}),
)
"""In order: the first family whose patterns are found wins."""


@dataclass(frozen=True)
class LayerMap:
    """Depth (number of blocks) by tower, and (tower, index from 0) by tensor name; other tensors are in no block."""

    family: str
    depths: Mapping[str, int]
    blocks: Mapping[str, tuple[str, int]]

    def place(self, name: str) -> tuple[int, int] | None:
        """Index and depth of the block a tensor is in, or None outside the blocks."""
        if name not in self.blocks:
            return None
        tower, index = self.blocks[name]
        return index, self.depths[tower]


def find_layers(names: Iterable[str], pattern: str = "auto") -> LayerMap:
    """The layer map of tensor ``names``: by family, or by a regex (searched anywhere) whose group 1 is the index.

    Raises ``PlanError`` where no blocks are found, fewer than two, or some index in between is missing.
    """
    names = sorted(names)
    if pattern != "auto":
        return _map(Family(f"pattern {pattern}", {"blocks": _checked(pattern)}), names)
    for family in FAMILIES:
        if any(re.search(expression, name) for expression in family.towers.values() for name in names):
            return _map(family, names)
    raise PlanError(
        f"no blocks found in {len(names)} tensors (the first is '{names[0] if names else ''}'): "
        "name them by 'blocks', a regex whose group 1 is the block's index"
    )


def _checked(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise PlanError(f"blocks: bad regular expression '{pattern}': {error}") from error
    if not groups:
        raise PlanError(f"blocks: '{pattern}' needs a group for the block's index, such as (\\d+)")
    return pattern


def _map(family: Family, names: list[str]) -> LayerMap:
    blocks: dict[str, tuple[str, int]] = {}
    depths: dict[str, int] = {}
    for tower, expression in family.towers.items():
        found = {name: match for name in names if (match := re.search(expression, name)) and name not in blocks}
        if not found:
            continue
        indices = {name: _index(family, expression, match) for name, match in found.items()}
        order = _order(family, tower, set(indices.values()))
        blocks |= {name: (tower, order[index]) for name, index in indices.items()}
        depths[tower] = len(order)
    if not blocks:
        raise PlanError(f"blocks: no tensor name matches {family.name}; 'inspect' shows the names")
    return LayerMap(family.name, depths, blocks)


def _index(family: Family, expression: str, match: re.Match[str]) -> tuple[int, ...]:
    groups = match.groups() if family.cumulative else match.groups()[:1]
    try:
        return tuple(int(group) for group in groups)
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"blocks: group 1 of '{expression}' is '{groups[0]}' in '{match.string}', not a number"
        ) from error


def _order(family: Family, tower: str, indices: set[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    """Rank of every index; holes and single blocks are refused."""
    last = [index[-1] for index in indices] if not family.cumulative else []
    holes = sorted(set(range(max(last, default=-1) + 1)) - set(last))
    for stage in {index[0] for index in indices} if family.cumulative else ():
        inside = {index[1] for index in indices if index[0] == stage}
        holes += sorted(set(range(max(inside) + 1)) - inside)
    if holes:
        raise PlanError(
            f"layer map {family.name}: blocks {holes[:5]} of tower '{tower}' have no tensors; check 'blocks'"
        )
    if len(indices) < 2:
        raise PlanError(f"layer map {family.name}: tower '{tower}' has one block, LiNeS needs at least two")
    return {index: rank for rank, index in enumerate(sorted(indices))}
