"""Finds the towers of a checkpoint, and the repeated stacks that are in none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lines_pipeline.io.layers.maps import SHOWN_SHARE, OutsideStack, Tower
from lines_pipeline.io.layers.numbering import missing_blocks
from lines_pipeline.io.layers.stages import Stage, inner_blocks, kinds_of
from lines_pipeline.io.layers.tree import Node
from lines_pipeline.io.layers.words import BACKWARDS, SEQUENCES, SHARED, STAGES, Part, Role, role_of

_FEWEST_NAMED = 3
"""Modules by names that end in a number are blocks from so many on: ``mid.block_1`` and ``mid.block_2`` are parts."""

Elements = Mapping[int, Node]


@dataclass
class Stacks:
    """Collects towers, stacks outside them, and lists of single layers, by path, and mistakes in them."""

    towers: dict[str, Tower] = field(default_factory=dict)
    outside: dict[str, OutsideStack] = field(default_factory=dict)
    layers: dict[str, Tower] = field(default_factory=dict)
    """Lists of single layers by a word for depth: towers where there are no others."""
    layer_problems: tuple[str, ...] = ()
    lone: tuple[str, ...] = ()
    """Paths of lists of one block."""
    problems: tuple[str, ...] = ()

    def add(self, other: Stacks) -> None:
        """Take over what another part of the checkpoint has."""
        self.towers |= other.towers
        self.outside |= other.outside
        self.layers |= other.layers
        self.layer_problems += other.layer_problems
        self.lone += other.lone
        self.problems += other.problems


@dataclass(frozen=True)
class _List:
    """Describes a list of modules: the module it is in, its word (empty where elements are numbered), its elements."""

    parent: Node
    word: str
    elements: Elements

    @property
    def name(self) -> str:
        """Name of the list: ``layers``, or ``layer#`` for ``layer1``, ``layer2``."""
        return self.word or self.parent.word

    @property
    def role(self) -> Role:
        """Return the role that its name says, or that of its module (``pos_conv_embed.layers`` are no blocks)."""
        around = self.parent if self.word else self.parent.parent
        if around is None:
            return role_of(self.name)
        if around.word.isdecimal() and around.parent is not None:
            outer = role_of(around.parent.word)
        else:
            outer = role_of(around.word.rpartition("_")[2])
        return outer if outer.is_aside else role_of(self.name)

    @property
    def first(self) -> int:
        """Return the number of the first element: 0, or whatever names that end in a number begin with."""
        return min(self.elements) if self.word else 0

    @property
    def is_of_layers(self) -> bool:
        """Return whether the elements are single layers."""
        return all(element.is_layer for element in self.elements.values())

    def path(self, index: str = "N") -> str:
        """Return where it stands in the names: ``encoder.layers.N``, ``layerN``."""
        return ".".join((*self.parent.path, f"{self.word.rstrip('#')}{index}"))

    def tower(self) -> Tower:
        """Return the tower whose blocks are the elements."""
        blocks = tuple(tuple(self.elements[index].tensors) for index in sorted(self.elements))
        return Tower(self.path(), blocks, self.role)


def find_stacks(root: Node) -> Stacks:
    """Return the towers below ``root`` and what is outside them."""
    stacks = _visited(root, root.numel)
    if not stacks.towers:
        stacks.towers, stacks.problems = stacks.layers, stacks.problems + stacks.layer_problems
        stacks.outside = {path: stack for path, stack in stacks.outside.items() if path not in stacks.layers}
    return stacks


def _visited(node: Node, total: int) -> Stacks:
    stacks, taken = _sequence(node)
    for word, elements in node.lists.items():
        stacks.add(_classified(_List(node, word, elements), total))
    for name, part in node.parts.items():
        if name not in taken:
            stacks.add(_visited(part, total))
    _assign_companions(node, stacks)
    return stacks


def _sequence(node: Node) -> tuple[Stacks, frozenset[str]]:
    """Return one tower of the modules that a forward pass takes one after the other, and the names of these."""
    for parts in SEQUENCES:
        modules = [(part, node.parts[name]) for part in parts for name in part.names if name in node.parts]
        blocks = [block for part, module in modules for block in _blocks_of(module, part)]
        if len({part for part, _ in modules}) < 2 or len(blocks) < 2:
            continue
        path = " then ".join(".".join(module.path) + ("" if part.one_block else ".N") for part, module in modules)
        lists = (
            _List(module, "", module.lists[""]) for part, module in modules if not part.one_block and "" in module.lists
        )
        problems = tuple(problem for stack in lists for problem in _gaps(stack))
        return Stacks({path: Tower(path, tuple(blocks))}, problems=problems), frozenset(m.word for _, m in modules)
    return Stacks(), frozenset()


def _blocks_of(module: Node, part: Part) -> list[tuple[str, ...]]:
    if part.one_block:
        return [tuple(module.tensors)]
    elements = module.lists.get("", {})
    return [tuple(elements[index].tensors) for index in sorted(elements)]


def _gaps(stack: _List) -> tuple[str, ...]:
    """Say which blocks of a stack are missing, if any."""
    missing = missing_blocks(stack.elements, stack.first)
    return (f"{stack.path()}: {missing} have no tensors",) if missing else ()


def _classified(stack: _List, total: int) -> Stacks:
    """Take a list as a tower, as stages of blocks, or as none; what is none is looked into."""
    may_be_stages = stack.role in (Role.DEPTH, Role.UNKNOWN) and stack.name not in SHARED
    stages = inner_blocks(stack.name, stack.elements) if may_be_stages else []
    if stages and len(stack.elements) > 1 and (stack.role is Role.DEPTH or stack.name in STAGES):
        return _staged(stack, stages)
    if not stages and _is_tower(stack, total):
        return Stacks({stack.path(): stack.tower()}, problems=_gaps(stack))
    return _looked_into(stack, total)


def _is_tower(stack: _List, total: int) -> bool:
    """Return whether a list is of blocks: by its name, or by its elements being alike and made of several modules."""
    if len(stack.elements) < (_FEWEST_NAMED if stack.word and "layer" not in stack.word else 2) or stack.is_of_layers:
        return False
    kinds, has_gaps = kinds_of(list(stack.elements.values())), bool(_gaps(stack))
    has_modules = not kinds[0][0].is_simple
    if stack.role is Role.DEPTH:
        is_small = sum(element.numel for element in stack.elements.values()) < SHOWN_SHARE * total
        is_sequence = len(kinds) > 1 or not has_modules  # of layers, where what has no tensors leaves gaps
        return not (has_gaps and (is_small or is_sequence)) and not (is_small and len(kinds) > 1)
    return stack.role is Role.UNKNOWN and _is_repeated(kinds) and has_modules and not has_gaps


def _is_repeated(kinds: Sequence[Sequence[Node]]) -> bool:
    """Return whether at least half of some modules, by structure, have another of their kind."""
    return 2 * sum(len(kind) for kind in kinds if len(kind) > 1) >= sum(len(kind) for kind in kinds)


def _looked_into(stack: _List, total: int) -> Stacks:
    """Return what is in the elements of a list; the list itself is outside where they hold no tower."""
    inside = Stacks()
    for index in sorted(stack.elements):
        inside.add(_visited(stack.elements[index], total))
    if inside.towers and stack.name not in SHARED and not _is_beside_the_point(stack, inside):
        return inside
    path, is_lone = stack.path(), len(stack.elements) == 1
    if _is_named(stack):
        inside = Stacks(outside={path: _outside(stack)}, lone=(path,) if is_lone else ())
    if stack.is_of_layers and stack.role is Role.DEPTH and not stack.word:
        inside.layer_problems = _gaps(stack)
        inside.layers = {} if is_lone else {path: stack.tower()}
    return inside


def _is_named(stack: _List) -> bool:
    """Return whether a list without towers is a stack that is told of: repeated, or one block."""
    if len(stack.elements) == 1:
        return stack.role is Role.DEPTH
    return _is_repeated(kinds_of(list(stack.elements.values())))


def _is_beside_the_point(stack: _List, inside: Stacks) -> bool:
    """Return whether the towers in a list are small parts of its elements (YOLO), not most of them (encoders)."""
    towers = (tower for tower in inside.towers.values() if tower.role is Role.DEPTH)
    held = {name for tower in towers for block in tower.blocks for name in block}
    tensors = [name for element in stack.elements.values() for name in element.tensors]
    return len(stack.elements) > 2 and 2 * len(held) < len(tensors)


def _outside(stack: _List) -> OutsideStack:
    tensors = tuple(name for element in stack.elements.values() for name in element.tensors)
    reason, counts = stack.role.value, stack.role.may_be_depth
    if len(stack.elements) == 1:
        reason = "one block that all layers share" if stack.name in SHARED else "one block"
    elif all(element.is_simple for element in stack.elements.values()) and counts:
        counts = len({element.numel for element in stack.elements.values()}) == 1
        reason = "single layers, not blocks" if counts else "single layers of different sizes, not blocks"
    elif stack.word and not _gaps(stack):
        reason, counts = "parts of one module", False
    elif stack.role is Role.DEPTH:
        reason = "modules with gaps in their numbers"
    return OutsideStack(stack.path(), tensors, reason, counts, is_lone=len(stack.elements) == 1)


def _staged(stack: _List, stages: Sequence[Stage]) -> Stacks:
    """Return one tower of the blocks in all stages, counted on from stage to stage."""
    stages = sorted(stages, key=lambda stage: stage.index, reverse=stack.name in BACKWARDS)
    path = stack.path("S") + stages[0].path
    blocks = tuple(tuple(block.tensors) for stage in stages for block in stage.blocks.values())
    held = {name for block in blocks for name in block}
    unheld = tuple(name for element in stack.elements.values() for name in element.tensors if name not in held)
    between = OutsideStack(stack.path("S"), unheld, "between the blocks of the stages", counted=False)
    outside = {between.path: between} if unheld else {}
    return Stacks({path: Tower(path, blocks)}, outside, problems=_stage_gaps(stack, stages))


def _stage_gaps(stack: _List, stages: Sequence[Stage]) -> tuple[str, ...]:
    numbers = sorted(index for stage in stages for index in stage.blocks)
    if numbers == list(range(len(numbers))):  # counted on from stage to stage
        return ()
    missing = ((stage, missing_blocks(stage.blocks, min(stage.blocks) if stage.is_named else 0)) for stage in stages)
    return tuple(f"{stack.path(str(s.index))}{s.path}: {text} have no tensors" for s, text in missing if text)


def _assign_companions(node: Node, stacks: Stacks) -> None:
    """Assign lists that have one element for every block or stage of a tower beside them.

    Norms belong to the blocks (XLM: ``attentions.N``, ``layer_norm1.N``); what goes with stages lies between them
    (SegFormer: ``block.S.N``, ``patch_embeddings.S``).
    """
    lists = [_List(part, "", part.lists[""]) for part in node.parts.values() if "" in part.lists]
    for stack in lists:
        if stack.path() not in stacks.outside:
            continue
        siblings = [
            sibling for sibling in lists if sibling.elements.keys() == stack.elements.keys() and sibling is not stack
        ]
        if stack.role is Role.NORMS and (
            beside := next((o.path() for o in siblings if o.path() in stacks.towers), None)
        ):
            norms = [tuple(stack.elements[index].tensors) for index in sorted(stack.elements)]
            blocks = tuple(own + norm for own, norm in zip(stacks.towers[beside].blocks, norms, strict=True))
            stacks.towers[beside] = replace(stacks.towers[beside], blocks=blocks)
            del stacks.outside[stack.path()]
        elif any(tower.startswith(f"{sibling.path('S')}.") for sibling in siblings for tower in stacks.towers):
            reason = "one element a stage, between the blocks"
            stacks.outside[stack.path()] = replace(stacks.outside[stack.path()], reason=reason, counted=False)
