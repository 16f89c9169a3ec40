"""What a recipe does with tensors that its user might not expect, told before and with every run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 3
"""Names and files that a note lists before it counts the rest."""


@dataclass(frozen=True)
class Told:
    """What becomes of ``tensors`` at a node, and of which checkpoint (``origin``) that is said."""

    node: str
    tensors: tuple[str, ...]
    reason: str
    origin: str


def render(told: Iterable[Told]) -> tuple[str, ...]:
    """One text for what is said alike of several checkpoints, in order."""
    origins: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for one in told:
        origins.setdefault((one.node, one.tensors, one.reason), []).append(one.origin)
    return tuple(
        f"node '{node}': {quoted(tensors)}: {reason} ({_listed(dict.fromkeys(found))})"
        for (node, tensors, reason), found in origins.items()
    )


def quoted(names: Iterable[str]) -> str:
    """``tensors 'a', 'b' and 3 more``."""
    marked = [f"'{name}'" for name in names]
    return f"tensor{'s' if len(marked) > 1 else ''} {_listed(marked)}"


def _listed(texts: Iterable[str]) -> str:
    texts = list(texts)
    rest = len(texts) - SHOWN
    return ", ".join(texts[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
