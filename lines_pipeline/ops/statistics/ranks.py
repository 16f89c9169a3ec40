"""The entry of a given rank when all entries of a tensor, or model, are put in order: of equal ones too just one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Block, Value, above, keep_from
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Remembered, Retry
from lines_pipeline.ops.statistics.thresholds import BracketCounts, Thresholds, TrimThreshold, groups

NO_ENTRY = -1.0
"""Stands for the magnitude where nothing is kept."""


@dataclass(frozen=True)
class RankedEntries(Thresholds):
    """Holds, by tensor name (``""``: the whole model), the magnitude of the entry of a rank, and where it is.

    Entries are ordered by magnitude, then by tensor name, then by position. ``places`` has tensor and position of
    those only whose magnitude others share.
    """

    places: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def place(self, tensor: TensorSpec) -> tuple[str, int] | None:
        """Return where the entry is, if its magnitude does not tell."""
        return self.places.get("" if "" in self.cuts else tensor.name)


@dataclass(frozen=True)
class RankedEntry(TrimThreshold):
    """The first or the last entry, from the smallest on, that a trim to an exact number of entries keeps.

    It keeps ``int(n * density)`` entries of n, ``at_least`` so many, below the ``int(n * gamma)`` largest: fewer of
    these are left out where too few others remain.

    Partials and states are ``Any``: those of ``TrimThreshold`` until magnitudes are known, and those of ``_Locating``
    in the last sweep.
    """

    end: Literal["first", "last"] = "first"
    gamma: float = 0.0
    at_least: int = 1

    def _rank(self, names: Sequence[str], numels: Mapping[str, int]) -> tuple[int, int]:
        total = sum(numels[name] for name in names)
        kept, lowest = self._kept(total)
        rank = lowest + 1 if self.end == "first" else lowest + kept
        return min(max(rank, 1), max(total, 1)), total

    def _kept(self, total: int) -> tuple[int, int]:
        """Return how many entries are kept, and how many smaller ones there are."""
        kept = min(max(int(total * self.density), self.at_least), total)
        return kept, max(total - kept - int(total * self.gamma), 0)

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: Any) -> tuple[Any, ...]:
        if not isinstance(state, _Locating):
            return super().observe(values, tensor, needs, state)
        sizes = _magnitudes(values[0])
        entry = state.wanted.get(tensor.name)
        return (None if entry is None else np.packbits(sizes == entry.magnitude), len(sizes))

    def partial(self, *reduced: Reduced) -> Any:
        return super().partial(*reduced) if len(reduced) == 1 else reduced

    def combine(self, partials: Mapping[str, list[Any]], numels: Mapping[str, int], state: Any) -> Any:
        if isinstance(state, _Locating):
            return state.located(partials)
        thresholds = super().combine(partials, numels, state)
        if isinstance(thresholds, Retry):
            return thresholds
        cuts, kept, equal_entries = dict(thresholds.cuts), 0, dict[str, _Equal]()
        for group, names in groups(self.scope, numels).items():
            count = self._kept(sum(numels[name] for name in names))[0]
            kept += count
            if not count:
                cuts[group] = NO_ENTRY
                continue
            rank = self._rank(names, numels)[0]
            if cuts[group] > 0.0:
                equal_entries |= _equal_entry(
                    group, cuts[group], rank, {name: partials.get(name, []) for name in names}, state
                )
        entries = RankedEntries(cuts, kept)
        return Retry(_Locating(entries, equal_entries)) if equal_entries else entries

    def kept_bytes(self, numels: Mapping[str, int], item_bytes: int) -> int:
        searched = [sum(numels.values()), max(numels.values(), default=0)]
        located = searched[self.scope == "global"] // 8 + 2 * searched[1]  # a bit an entry, and a tensor's unpacked
        return max(super().kept_bytes(numels, item_bytes), located)

    def decode(self, result: Remembered) -> RankedEntries:
        places = {group: (name, position) for group, (name, position) in result["places"].items()}
        return RankedEntries(result["cuts"], result["kept"], places)


def keep_from_entry(value: Block, entries: RankedEntries, tensor: TensorSpec, position: int) -> Block:
    """Return ``value`` with the entries before a ranked one set to zero; the block begins at ``position``."""
    cut, place = entries.of(tensor), entries.place(tensor)
    if cut == NO_ENTRY:
        return value * 0.0
    if place is None or tensor.name > place[0]:
        return keep_from(value, cut)
    if tensor.name < place[0]:
        return keep_from(value, above(cut, value.dtype))
    sizes, positions = value.abs(), torch.arange(position, position + value.numel(), device=value.device)
    kept = (sizes > cut) | ((sizes == cut) & (positions >= place[1]))
    return torch.where(kept, value, torch.zeros_like(value))


def trimmed(delta: Value, thresholds: Thresholds | None, tensor: TensorSpec, position: int) -> tuple[Value, float]:
    """Return a task vector and the magnitude from which on it is kept: 0 where the cut is within equal magnitudes."""
    if isinstance(thresholds, RankedEntries) and thresholds.place(tensor) is not None:
        return keep_from_entry(delta, thresholds, tensor, position), 0.0
    return delta, 0.0 if thresholds is None else thresholds.of(tensor)


def drop_after_entry(value: Block, entries: RankedEntries, tensor: TensorSpec, position: int) -> Block:
    """Return ``value`` with the entries after a ranked one set to zero; the block begins at ``position``."""
    cut, place = entries.of(tensor), entries.place(tensor)
    if cut == NO_ENTRY:
        return value * 0.0
    if place is None or tensor.name < place[0]:
        return value - keep_from(value, above(cut, value.dtype))
    if tensor.name > place[0]:
        return value - keep_from(value, cut)
    sizes, positions = value.abs(), torch.arange(position, position + value.numel(), device=value.device)
    kept = (sizes < cut) | ((sizes == cut) & (positions <= place[1]))
    return torch.where(kept, value, torch.zeros_like(value))


def _magnitudes(value: Block) -> np.ndarray[Any, Any]:
    """Return the magnitudes of a block, in the processor's memory."""
    magnitudes: np.ndarray[Any, Any] = value.abs().numpy(force=True)
    return magnitudes


@dataclass(frozen=True)
class _Equal:
    """One of the entries of a magnitude that a tensor has: which one (from 0), for which group of tensors."""

    group: str
    magnitude: float
    number: int


@dataclass(frozen=True)
class _Locating:
    """The state of a sweep that looks for entries of known magnitude, by the tensor that each is in."""

    entries: RankedEntries
    wanted: Mapping[str, _Equal]

    def located(self, partials: Mapping[str, list[Any]]) -> RankedEntries:
        """Return the entries with their places."""
        places = {}
        for name, equal in self.wanted.items():
            bits = [np.unpackbits(packed, count=numel) for packed, numel in partials[name]]
            places[equal.group] = (name, int(np.flatnonzero(np.concatenate(bits))[equal.number]))
        return RankedEntries(self.entries.cuts, self.entries.kept, places)


def _equal_entry(
    group: str, magnitude: float, rank: int, blocks: Mapping[str, list[BracketCounts]], state: Mapping[str, Any]
) -> dict[str, _Equal]:
    """Return, by tensor, which of several equal magnitudes has the rank; nothing where there is only one."""
    bracket = state[group]
    smaller, equal = 0, dict.fromkeys(blocks, 0)
    for name, counts in blocks.items():
        for block in counts:
            below, same = _against(block, magnitude, bracket.low, bracket.high)
            smaller += below
            equal[name] += same
    number = rank - smaller - 1
    if sum(equal.values()) == 1:
        return {}
    for name, count in equal.items():
        if number < count:
            return {name: _Equal(group, magnitude, number)}
        number -= count
    raise AssertionError("the rank lies beyond all entries")


def _against(block: BracketCounts, magnitude: float, low: float, high: float) -> tuple[int, int]:
    """Return how many entries of a block are smaller than a magnitude, and how many equal to it."""
    if magnitude == low:
        return block.below, block.at_low
    smaller = block.below + block.at_low + int((block.inside < magnitude).sum())
    return smaller, block.at_high if magnitude == high else int((block.inside == magnitude).sum())
