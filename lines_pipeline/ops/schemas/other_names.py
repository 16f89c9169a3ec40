"""What a recipe says where one of two models only has its tensors by other names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import takewhile


def name_remedy(origin: str, theirs: Sequence[str], ours: Sequence[str], others: Iterable[str]) -> str:
    """Return a sentence about ``theirs``, names in ``origin`` that another model lacks, which has ``ours`` instead.

    ``others`` are the names that both have. The sentence is empty where only one side lacks names.
    """
    if not theirs or not ours:
        return ""
    prefix, node = _prefixes(sorted(theirs), sorted(ours), tuple(others)), f"the node that loads {origin}"
    if prefix is None:
        return f"If only the names differ, use 'prefix' or 'rename' in {node}"
    fields = ", ".join(f"{key}: {json.dumps(text)}" for key, text in zip(("strip", "add"), prefix, strict=True) if text)
    return f"Only the beginning of the names differs: say 'prefix: {{{fields}}}' in {node}"


def _prefixes(theirs: Sequence[str], ours: Sequence[str], others: Iterable[str]) -> tuple[str, str] | None:
    """Return what ``prefix`` has to strip and to add to make ``theirs`` of one model those of another.

    Both are sorted, so that names with equal ends stand at equal places.
    """
    if len(theirs) != len(ours):
        return None
    pairs = list(zip(theirs, ours, strict=True))
    length = max(len(own_name) - _common_end(own_name, other_name) for own_name, other_name in pairs)
    strip, add = theirs[0][:length], ours[0].removesuffix(theirs[0][length:])
    fits = all(
        len(own_name) > length and own_name.startswith(strip) and other_name == add + own_name[length:]
        for own_name, other_name in pairs
    )
    spoils = any(add or name.startswith(strip) for name in others)
    return (strip, add) if fits and not spoils else None


def _common_end(first: str, second: str) -> int:
    """Return how many characters two names end with alike."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(first), reversed(second), strict=False))
    )
