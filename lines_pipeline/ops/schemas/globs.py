"""Which tensors the patterns of a recipe choose."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from lines_pipeline.core.errors import did_you_mean

Bounds = tuple[tuple[str, ...], tuple[str, ...]]
"""``include`` and ``exclude`` of a node."""

MAX_CANDIDATES = 5000
"""Names among which the nearest to a mistyped one is looked for: comparing texts is slow."""


def matches(globs: Iterable[str], names: Iterable[str]) -> bool:
    """Return whether any of ``globs`` matches any of a tensor's names (it has several where it is tied)."""
    patterns = [_compiled(glob) for glob in globs]
    return any(pattern.match(name) for name in names for pattern in patterns)


def chooses(bounds: Bounds, names: Sequence[str]) -> bool:
    """Return whether a node with these bounds keeps the tensor with these names."""
    include, exclude = bounds
    return (not include or matches(include, names)) and not (exclude and matches(exclude, names))


def match_each(globs: Iterable[str], names: Iterable[str]) -> dict[str, bool]:
    """Return each of ``globs``, and whether it matches any of ``names``."""
    known = tuple(names)
    return {glob: any(map(_compiled(glob).match, known)) for glob in globs}


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest of many names, or an empty text."""
    return did_you_mean(name, sorted(names)[:MAX_CANDIDATES])


@lru_cache(maxsize=1024)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))
