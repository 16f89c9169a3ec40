"""The tensors of a checkpoint as a tree of modules, in which lists of modules stand out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

MAX_PARTS = 48
"""Parts of a name that are looked at: modules are not nested deeper."""
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_ATTACHED = re.compile(
    r"(_?(?:[a-z]+_)*(?:layer|block|stage|level|group|res|denseblock|denselayer)_?)(\d{1,4})", re.ASCII | re.IGNORECASE
)
_TWICE_NUMBERED = re.compile(r"([a-z]+)\d{1,3}-(\d{1,4})", re.ASCII | re.IGNORECASE)
_SHORT = re.compile(r"[sb]\d{1,3}", re.ASCII)


class Node:
    """Describes a module: its parts by name, its lists by word, and its own tensors (full name to number of values).

    A list is of elements that are numbered (the word is empty), or whose names end in a number (``layer#``).
    """

    __slots__ = ("_structure", "lists", "numel", "own", "parent", "parts", "word")

    def __init__(self, word: str = "", parent: Node | None = None) -> None:
        self.word = word
        """Its name, or its index where it is an element of a list."""
        self.parent = parent
        self.parts: dict[str, Node] = {}
        self.lists: dict[str, dict[int, Node]] = {}
        self.own: dict[str, int] = {}
        self.numel = 0
        """Number of values of all tensors inside."""
        self._structure: frozenset[str] | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """Return its name and those of the modules around it, from the outermost on."""
        words, node = [], self
        while node.parent is not None:
            words.append(node.word)
            node = node.parent
        return tuple(reversed(words))

    @property
    def tensors(self) -> Iterator[str]:
        """Return the full names of the tensors inside."""
        yield from self.own
        for node in self.inner():
            yield from node.tensors

    @property
    def structure(self) -> frozenset[str]:
        """Return the names inside, relative to this module, indices replaced by ``*``; down to the third level."""
        if self._structure is None:
            self._structure = frozenset(self._outline(3))
        return self._structure

    def _outline(self, levels: int) -> Iterator[str]:
        if levels == 0:
            return
        for name in self.own:
            yield name.rpartition(".")[2]
        elements = ((f"{word}*", node) for word, list_ in self.lists.items() for node in list_.values())
        for word, node in (*self.parts.items(), *elements):
            yield word
            yield from (f"{word}.{inner}" for inner in node._outline(levels - 1))

    @property
    def is_layer(self) -> bool:
        """Return whether it is a single layer: nothing but tensors of its own."""
        return not self.parts and not self.lists

    @property
    def is_simple(self) -> bool:
        """Return whether it is a single layer, or a module around one."""
        return self.is_layer or (
            not self.lists and not self.own and len(self.parts) == 1 and next(iter(self.parts.values())).is_layer
        )

    def inner(self) -> Iterator[Node]:
        """Yield the modules directly inside."""
        yield from self.parts.values()
        for elements in self.lists.values():
            yield from elements.values()


def grow(sizes: Mapping[str, int]) -> Node:
    """Return the tree of the tensors ``sizes`` (number of values by name)."""
    root = Node()
    for name, numel in sizes.items():
        *modules, _ = name.split(".", MAX_PARTS)
        node = root
        node.numel += numel
        for position, part in enumerate(modules):
            node = _entered(node, part, modules[position + 1] if position + 1 < len(modules) else "")
            node.numel += numel
        node.own[name] = numel
    return root


def _entered(node: Node, part: str, following: str) -> Node:
    """Return the module ``part`` of a module; make it where it is not there yet."""
    if part in node.parts:
        return node.parts[part]
    numbered = _numbered(part) if part[-1:].isdecimal() else None
    if numbered is None and _SHORT.fullmatch(part):  # regnets of timm: s1.b1, s1.b2, ...
        is_stage = part[0] == "s" and following[:1] == "b" and _SHORT.fullmatch(following)
        numbered = (f"{part[0]}#", int(part[1:])) if is_stage or _is_short_block(node, part) else None
    if numbered is None:
        entered = node.parts[part] = Node(part, node)
        return entered
    word, index = numbered
    elements = node.lists.setdefault(word, {})
    if index not in elements:
        elements[index] = Node(part, node)
    return elements[index]


def _is_short_block(node: Node, part: str) -> bool:
    return part[0] == "b" and node.word[:1] == "s" and _SHORT.fullmatch(node.word) is not None


@lru_cache(maxsize=4096)
def _numbered(part: str) -> tuple[str, int] | None:
    """Return the list (by its word) and the index that a part of a name stands for, if it stands for any."""
    if _INDEX.fullmatch(part):
        return "", int(part)
    if match := _ATTACHED.fullmatch(part):
        return f"{match[1]}#", int(match[2])
    if match := _TWICE_NUMBERED.fullmatch(part):
        return f"{match[1]}-#", int(match[2])
    return None
