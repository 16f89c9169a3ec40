"""What a recipe does with tensors that its user might not expect, told before and with every run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lines_pipeline.core.printable import counted, listed


@dataclass(frozen=True)
class TensorNote:
    """Says what becomes of ``tensors`` at a node, and of which checkpoint (``origin``) they are."""

    node: str
    tensors: tuple[str, ...]
    reason: str
    origin: str


def render(notes: Iterable[TensorNote]) -> tuple[str, ...]:
    """Return one text for each note; checkpoints of which the same is said share it."""
    origins: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for note in notes:
        origins.setdefault((note.node, note.tensors, note.reason), []).append(note.origin)
    return tuple(
        f"node '{node}': {quoted(tensors)}: {reason} ({counted(dict.fromkeys(of_note))})"
        for (node, tensors, reason), of_note in origins.items()
    )


def quoted(names: Iterable[str]) -> str:
    """Return ``tensors 'a', 'b' and 3 more``."""
    names = list(names)
    return f"tensor{'s' if len(names) > 1 else ''} {listed(names)}"
