"""Tells lists of stages, which hold blocks (Swin, ResNet), from lists of blocks, which hold their parts (T5, MoE)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lines_pipeline.io.layers.tree import Node
from lines_pipeline.io.layers.words import STAGES, Role, role_of

_ALIKE = 0.5
"""Modules are alike when they share this part of the names in either."""
_FEWEST_NAMES = 3
_LEAST_SHARE = {1: 0.5, 2: 0.5, 3: 0.7}
"""What of a list the blocks inside its elements hold at least, for it to be stages; by the parts of their path."""
_COMPARED = 8
"""Structures that every element is compared with: a list has few, or it is no stack."""


@dataclass(frozen=True)
class Stage:
    """The blocks in one element of a list, by number; ``path`` leads to them from the element."""

    index: int
    path: str
    blocks: Mapping[int, Node]
    is_named: bool
    """Whether names that end in a number stand for the blocks."""


def inner_blocks(name: str, elements: Mapping[int, Node]) -> Sequence[Stage]:
    """Return the blocks inside the elements of a list, if it is stages of blocks: most of it, and of one structure."""
    by_path: dict[str, list[Stage]] = {}
    for index, element in sorted(elements.items()):
        for path, word, inner in _lists_inside(element, name):
            blocks = {number: inner[number] for number in sorted(inner) if not inner[number].is_layer}
            if blocks and (role_of(word) is Role.DEPTH or word in STAGES):
                by_path.setdefault(path, []).append(Stage(index, path, blocks, word.endswith("#")))
    total = sum(element.numel for element in elements.values())
    for path, stages in by_path.items():
        held = sum(block.numel for stage in stages for block in stage.blocks.values())
        if held >= _LEAST_SHARE[path.count(".")] * total and _are_blocks(stages):
            return stages
    return ()


def _lists_inside(element: Node, name: str) -> Iterator[tuple[str, str, Mapping[int, Node]]]:
    """Yield path, word and elements of the lists in a module, in its parts and in theirs."""
    for word, inner in element.lists.items():
        yield f".{word.rstrip('#')}N", word or name, inner
    for part in element.parts.values():
        for word, inner in part.lists.items():
            yield f".{part.word}.{word.rstrip('#')}N", word or part.word, inner
        for deeper in part.parts.values():
            if "" in deeper.lists:
                yield f".{part.word}.{deeper.word}.N", deeper.word, deeper.lists[""]


def _are_blocks(stages: Sequence[Stage]) -> bool:
    """Return whether blocks are alike within the longest stage, as the parts of a T5 block are not."""
    longest = max(stages, key=lambda stage: len(stage.blocks))
    blocks = list(longest.blocks.values())
    if len(blocks) == 1:
        blocks = [block for stage in stages for block in stage.blocks.values()]
    return 2 * sum(len(kind) for kind in kinds_of(blocks) if len(kind) > 1) >= len(blocks)


def kinds_of(modules: Sequence[Node]) -> list[list[Node]]:
    """Return modules by structure, the most frequent kind first."""
    kinds: list[list[Node]] = []
    for module in modules:
        alike = (kind for kind in kinds[:_COMPARED] if _are_alike(kind[0].structure, module.structure))
        kind = next(alike, None)
        if kind is None:
            kinds.append([module])
        else:
            kind.append(module)
    return sorted(kinds, key=len, reverse=True)


def _are_alike(first: frozenset[str], second: frozenset[str]) -> bool:
    """Return whether two modules share most names, or one has all of the other's (in a ResNet, and a shortcut)."""
    shared = len(first & second)
    return shared >= _ALIKE * len(first | second) or shared == max(min(len(first), len(second)), _FEWEST_NAMES)
