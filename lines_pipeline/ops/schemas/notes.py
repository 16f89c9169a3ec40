"""What a recipe does with tensors that its user might not expect, told before and with every run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lines_pipeline.core.printable import counted, listed


@dataclass(frozen=True)
class TensorNote:
    """What becomes of ``tensors`` at a node, and of which checkpoint (``origin``) that is said."""

    node: str
    tensors: tuple[str, ...]
    reason: str
    origin: str


def render(notes: Iterable[TensorNote]) -> tuple[str, ...]:
    """One text for what is said alike of several checkpoints, in order."""
    origins: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for note in notes:
        origins.setdefault((note.node, note.tensors, note.reason), []).append(note.origin)
    return tuple(
        f"node '{node}': {quoted(tensors)}: {reason} ({counted(dict.fromkeys(of_note))})"
        for (node, tensors, reason), of_note in origins.items()
    )


def quoted(names: Iterable[str]) -> str:
    """``tensors 'a', 'b' and 3 more``."""
    names = list(names)
    return f"tensor{'s' if len(names) > 1 else ''} {listed(names)}"
