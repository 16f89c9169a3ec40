"""Finds towers by regular expressions that a user gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.patterns import Pattern, PatternError
from lines_pipeline.io.layers.numbering import missing_blocks

Index = tuple[int, ...]
_MAX_DIGITS = 9


def given_towers(names: Sequence[str], patterns: Sequence[str]) -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Return the blocks of every tower; the first pattern that is found in a name has it."""
    towers: dict[str, tuple[tuple[str, ...], ...]] = {}
    taken: set[str] = set()
    for number, pattern in enumerate(patterns, start=1):
        free = [name for name in names if name not in taken]
        try:
            for label, indices in _by_label(pattern, free).items():
                tower = label or ("blocks" if len(patterns) == 1 else f"blocks {number}")
                tower = tower if tower not in towers else f"{tower} {number}"
                towers[tower] = _ordered(pattern, tower, indices)
                taken |= indices.keys()
        except PlanError as error:
            raise PlanError.at(("blocks", number - 1), str(error)) from error
    return towers


def _by_label(text: str, names: Iterable[str]) -> Mapping[str, dict[str, Index]]:
    """Return the indices of the names in which a pattern is found, by what its groups before the numbers hold."""
    try:
        pattern = Pattern(text)
        matches = {name: match for name in names if (match := pattern.search(name))}
    except PatternError as error:
        raise PlanError(f"blocks: {error}") from error
    if not pattern.groups:
        raise PlanError(f"blocks: '{text}' needs a group for the block's index, such as (\\d+)")
    numeric = _numeric_groups(text, matches)
    labelled: dict[str, dict[str, Index]] = {}
    for name, match in matches.items():
        groups = match.groups()
        label = ".".join(group for group in groups[: numeric[0]] if group)
        labelled.setdefault(label, {})[name] = tuple(int(groups[group]) for group in numeric)
    if not labelled:
        raise PlanError(f"blocks: no tensor name matches pattern {text}; 'inspect' shows the names")
    return labelled


def _numeric_groups(text: str, matches: Mapping[str, Any]) -> list[int]:
    """Return the groups that are numbers in every name; those after the first one have to follow it at once."""
    numeric: list[int] = []
    for name, match in matches.items():
        groups = match.groups()
        indices = [i for i, group in enumerate(groups) if group is not None and _is_index(group)]
        if not indices:
            shown = next((group for group in groups if group is not None), "nothing")
            raise PlanError(f"blocks: group 1 of '{text}' is '{shown[:40]}' in '{name[:200]}', not a number of a block")
        numeric = indices if not numeric else [group for group in numeric if group in indices]
        if not numeric:
            raise PlanError(f"blocks: no group of '{text}' is a number in all names, as it is in '{name[:200]}'")
    return numeric


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def _ordered(pattern: str, tower: str, indices: Mapping[str, Index]) -> tuple[tuple[str, ...], ...]:
    """Return the names of every block, in order; refuse one block, and blocks that are missing in between."""
    blocks: dict[Index, list[str]] = {}
    for name, index in indices.items():
        blocks.setdefault(index, []).append(name)
    for missing in _missing(set(blocks)):
        raise PlanError(f"layer map pattern {pattern}: {missing} of tower '{tower}' have no tensors; check 'blocks'")
    if len(blocks) < 2:
        raise PlanError(f"layer map pattern {pattern}: tower '{tower}' has one block, LiNeS needs at least two")
    return tuple(tuple(blocks[index]) for index in sorted(blocks))


def _missing(indices: set[Index]) -> list[str]:
    last = sorted(index[-1] for index in indices)
    if last == list(range(len(last))):
        return []
    stages: dict[Index, list[int]] = {}
    for index in indices:
        stages.setdefault(index[:-1], []).append(index[-1])
    return [missing for _, inside in sorted(stages.items()) if (missing := missing_blocks(inside))]
