"""Says which numbers of a stack are missing, however large they are."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN_GAPS = 5


def missing_blocks(numbers: Iterable[int], first: int = 0) -> str:
    """Return which blocks from ``first`` to the last are missing, in words; an empty text where none is."""
    gaps: list[str] = []
    expected = first
    for number in sorted(set(numbers)):
        if number > expected:
            gaps.append(f"{expected}" if number == expected + 1 else f"{expected} to {number - 1}")
        expected = number + 1
    ellipsis = ", ..." if len(gaps) > _SHOWN_GAPS else ""
    return f"blocks [{', '.join(gaps[:_SHOWN_GAPS])}{ellipsis}]" if gaps else ""
