"""Makes layer maps: by the stacks that a checkpoint has, or by regular expressions that a user gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.printable import shortened
from lines_pipeline.io.layers.given import given_towers
from lines_pipeline.io.layers.maps import LayerMap, OutsideStack, Tower
from lines_pipeline.io.layers.stacks import Stacks, find_stacks
from lines_pipeline.io.layers.tree import grow
from lines_pipeline.io.layers.words import family_of

MOST_OUTSIDE = 0.1
"""The share of the parameters that stacks outside every tower may hold."""

Sizes = Mapping[str, int]


def find_layers(sizes: Sizes | Iterable[str], blocks: str | Sequence[str] = "auto") -> LayerMap:
    """Return the layer map of a model's tensors, given by their number of values (or by name, all of one size).

    ``blocks`` is ``auto``, or regular expressions (searched anywhere), one a tower, whose groups that are numbers are
    the block's index: several count on from stage to stage. Raises ``PlanError`` where no blocks are found, fewer than
    two, or some in between are missing.
    """
    sizes = sizes if isinstance(sizes, Mapping) else dict.fromkeys(sizes, 1)
    stacks = find_stacks(grow(sizes))
    if blocks == "auto":
        return _layer_map(sizes, stacks)
    patterns = (blocks,) if isinstance(blocks, str) else tuple(blocks)
    towers = given_towers(sorted(sizes), patterns)
    held = {name for blocks_ in towers.values() for block in blocks_ for name in block}
    remaining = [*stacks.outside.values(), *(_as_outside(tower) for tower in stacks.towers.values())]
    outside = [_without(stack, held) for stack in remaining]
    paths = dict.fromkeys(towers, "") if len(patterns) > 1 else dict.fromkeys(towers, patterns[0])
    return _map(f"pattern {' and '.join(patterns)}", towers, paths, tuple(s for s in outside if s.tensors), sizes, True)


def require_coverage(layers: LayerMap, scaled: Container[str] | None = None) -> None:
    """Refuse a map that was found (not given) and leaves out more than a tenth of the parameters that are scaled."""
    counted = [(stack, share) for stack, share in layers.outside(scaled) if stack.counted]
    repeated = sum(share for stack, share in counted if not stack.is_lone)
    lone = max((share for stack, share in counted if stack.is_lone), default=0.0)
    if max(repeated, lone) <= MOST_OUTSIDE or layers.is_given:
        return
    total = sum(share for _, share in counted)
    listed = "; ".join(f"'{stack.path}' {share:.1%} ({stack.reason})" for stack, share in counted)
    raise PlanError(
        f"layer map: {total:.1%} of the parameters are in stacks that are in no tower, at most 10% may be: {listed}. "
        "Give 'blocks' a regular expression for every tower, or 'exclude' what is not to be scaled; towers found: "
        f"{', '.join(layers.paths.values())}"
    )


def _layer_map(sizes: Sizes, stacks: Stacks) -> LayerMap:
    if stacks.problems:
        raise PlanError(
            f"layer map: {stacks.problems[0]}; load all blocks, or say by 'blocks' where the index of a block stands"
        )
    if not stacks.towers:
        raise PlanError(_nothing_found(sizes, stacks))
    named = [(*family_of(tower.path), tower) for tower in stacks.towers.values()]
    names = _unique([name for name, _, _ in named], [_long_name(path) for path in stacks.towers])
    names = names if len(set(names)) == len(names) else list(stacks.towers)
    towers = {name: tower.blocks for name, (_, _, tower) in zip(names, named, strict=True)}
    paths = {name: tower.path for name, (_, _, tower) in zip(names, named, strict=True)}
    families = dict.fromkeys(family for _, family, _ in named if family)
    return _map("; ".join(families) or "stacks by name", towers, paths, tuple(stacks.outside.values()), sizes)


def _unique(short: Sequence[str], long: Sequence[str]) -> list[str]:
    """Return the short names, and the long ones where several towers have one short name."""
    counts = Counter(short)
    return [name if counts[name] == 1 else long_name for name, long_name in zip(short, long, strict=True)]


def _long_name(path: str) -> str:
    """Return what tells a tower from others: its path without the index."""
    return path.removesuffix("N").rstrip("._-")


def _nothing_found(sizes: Sizes, stacks: Stacks) -> str:
    for path in stacks.lone:
        return f"layer map: '{path}' has {stacks.outside[path].reason}, LiNeS needs at least two"
    lists = ", ".join(f"'{path}' ({stack.reason})" for path, stack in list(stacks.outside.items())[:3])
    return (
        f"no blocks found in {len(sizes)} tensors (the first is '{shortened(min(sizes, default=''))}'"
        f"{f'; there are {lists}' if lists else ''}): "
        "name them by 'blocks', a regular expression with a group for the block's index"
    )


def _as_outside(tower: Tower) -> OutsideStack:
    names = tuple(name for block in tower.blocks for name in block)
    return OutsideStack(tower.path, names, "matched by no pattern of 'blocks'", counted=True)


def _without(stack: OutsideStack, held: Container[str]) -> OutsideStack:
    kept = tuple(name for name in stack.tensors if name not in held)
    return replace(stack, tensors=kept)


def _map(
    family: str,
    towers: Mapping[str, Sequence[Sequence[str]]],
    paths: Mapping[str, str],
    outside: tuple[OutsideStack, ...],
    sizes: Sizes,
    is_given: bool = False,
) -> LayerMap:
    depths = {tower: len(blocks) for tower, blocks in towers.items()}
    places = {
        name: (tower, index) for tower, blocks in towers.items() for index, block in enumerate(blocks) for name in block
    }
    return LayerMap(family, depths, places, dict(paths), outside, sizes, is_given)
