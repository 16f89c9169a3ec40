"""Finds one value among all of a tensor, or model, in a few sweeps: digit after digit of how it is stored.

It takes values that are computed of several models, of any sign, and ranks that are known only after a first sweep.
``thresholds`` finds magnitudes of a single value in one sweep.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from lines_pipeline.core.tensor_specs import TensorSpec, block_count
from lines_pipeline.ops.kernels import Block, Value
from lines_pipeline.ops.statistics.contract import Needs, Reduced, Reductions, Retry, Statistic
from lines_pipeline.ops.statistics.thresholds import groups

SHIFTS = (52, 44, 36, 28, 20, 12, 4, 0)
"""Where the digits of a float64 begin: sign and exponent, then 8 bits each, so that what blocks count stays small."""
FEW_VALUES = 2**18
"""So many values of all tensors together are kept, in place of another digit."""
MOST_DIGITS = {4: 560, 8: 4096}
"""Digits that values of one block can have, by their size: sign and exponent of float32, or of float64."""
DIGIT_BYTES = 2 + 4 + 8
"""Bytes of a digit, its count and its weight."""
ARRAYS_BYTES = 200
"""Bytes of the arrays themselves, beyond what partials of other statistics take, as measured."""
_MASKS = (2**12 - 1, *(2 ** (above - shift) - 1 for above, shift in pairwise(SHIFTS)))
_SIGN = np.uint64(2**63)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prefix:
    """Holds the known leading digits of the value, and what is left to count among values that have them."""

    digits: int = 0
    level: int = 0
    """How many digits are known."""
    left: float = 0.0
    """Rank (from 1), or weight, among the values with these digits, from the side where the search begins."""
    keeps: bool = False
    """Whether the values with these digits are few, and kept."""
    value: float | None = None
    """The value, where it is known."""


Prefixes = Mapping[str, Prefix] | None
"""What is known by tensor (or ``""``); None before the first sweep."""


@dataclass(frozen=True)
class Counted:
    """Holds the values of one block by digit, with number and weight; or all values with the prefix (``kept``).

    Digits are those after the prefix, in 16 bits; counts have 32 bits. Without weights each value counts 1.
    """

    digits: Array
    counts: Array
    weights: Array | None
    marked: int
    """Values that are not zero."""
    kept: Array | None = None


@dataclass(frozen=True)
class SelectedValue(Statistic[Counted, Any, Prefixes]):
    """A value of a derived quantity by tensor (or ``""``), at a rank or where weights add up to a share.

    The result is ``Any``: a number by tensor here, and what a subclass makes of these numbers there.
    """

    scope: str
    descending = False
    """Whether the search begins at the largest value."""

    @abstractmethod
    def derived(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs) -> Block:
        """Return the quantity, of one block."""

    @abstractmethod
    def goal(self, count: int, marked: int, weight: float) -> float:
        """Return what to count up to: a rank or weight, of so many values, not zero, and their weight. 0 is nothing."""

    def weigh(self, values: Array) -> Array | None:
        """Return weights of values; None where each counts 1."""
        return None

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: Prefixes) -> Reductions:
        numbers = np.asarray(self.derived(values, tensor, needs).numpy(force=True), np.float64).reshape(-1)
        prefix = (state or {}).get("" if self.scope == "global" else tensor.name, Prefix())
        keys = _keys(numbers)
        if prefix.level:
            chosen = (keys >> np.uint64(SHIFTS[prefix.level - 1])) == np.uint64(prefix.digits)
            keys, numbers = keys[chosen], numbers[chosen]
        marked = int(np.count_nonzero(numbers))
        weights = self.weigh(numbers)
        if prefix.keeps or prefix.value is not None:
            return (Counted(_NOTHING, _NOTHING, None, marked, numbers if prefix.keeps else None),)
        last = ((keys >> np.uint64(SHIFTS[prefix.level])) & np.uint64(_MASKS[prefix.level])).astype(np.uint16)
        digits, places, counts = np.unique(last, return_inverse=True, return_counts=True)
        sums = None if weights is None else np.bincount(places, weights, len(digits))
        return (Counted(digits, counts.astype(np.uint32), sums, marked),)

    def kept_bytes(self, numels: Mapping[str, int], item_bytes: int) -> int:
        of_block = MOST_DIGITS[item_bytes] * DIGIT_BYTES + ARRAYS_BYTES
        return block_count(numels.values()) * of_block + 8 * FEW_VALUES

    def partial(self, *reduced: Reduced) -> Counted:
        counted: Counted = reduced[0]
        return counted

    def combine(self, partials: Mapping[str, list[Counted]], numels: Mapping[str, int], state: Prefixes) -> Any:
        known: dict[str, Prefix] = {}
        tensors = groups(self.scope, numels)
        few = FEW_VALUES // max(len(tensors), 1)
        for group, names in tensors.items():
            blocks = [block for name in names for block in partials.get(name, [])]
            prefix = (state or {}).get(group)
            if prefix is None or prefix.value is None:
                prefix = self._advanced(prefix, blocks, few) if blocks else Prefix(value=NOTHING)
            known[group] = prefix
        if any(prefix.value is None for prefix in known.values()):
            return Retry(known)
        return {group: prefix.value for group, prefix in known.items()}

    def _advanced(self, prefix: Prefix | None, blocks: Sequence[Counted], few: int) -> Prefix:
        """Return what is known after another sweep; up to ``few`` values are kept."""
        if prefix is not None and prefix.keeps:
            return replace(prefix, keeps=False, value=self._among(prefix, blocks))
        digits, counts, weights, marked = _merged(blocks)
        if prefix is None:
            goal = self.goal(int(counts.sum()), marked, float(weights.sum()))
            if not goal:
                return Prefix(value=NOTHING)
            prefix = Prefix(left=goal)
        order = slice(None, None, -1) if self.descending else slice(None)
        reached = np.cumsum(weights[order])
        place = min(int(np.searchsorted(reached, prefix.left)), len(reached) - 1)
        count = int(counts[order][place])
        digit = (prefix.digits * (_MASKS[prefix.level] + 1) if prefix.level else 0) + int(digits[order][place])
        left = prefix.left - (float(reached[place - 1]) if place else 0.0)
        level = prefix.level + 1
        if level == len(SHIFTS):
            return Prefix(digit, level, left, value=_value(digit))
        return Prefix(digit, level, left, keeps=count <= few)

    def _among(self, prefix: Prefix, blocks: Sequence[Counted]) -> float:
        """Return the value with the rank, among those kept."""
        numbers = np.sort(np.concatenate([block.kept for block in blocks if block.kept is not None]))
        numbers = numbers[::-1] if self.descending else numbers
        weights = self.weigh(numbers)
        reached = np.arange(1, len(numbers) + 1) if weights is None else np.cumsum(weights)
        return float(numbers[min(int(np.searchsorted(reached, prefix.left)), len(numbers) - 1)])


NOTHING = -1e300
"""Stands for a value that is not there: below all others, or above them where the search begins there."""
_NOTHING = np.empty(0)


def _keys(numbers: Array) -> Array:
    """Return integers that are ordered as the numbers are; -0 is 0."""
    bits = (numbers + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _value(key: int) -> float:
    """Return the number of an ordered integer."""
    bits = np.uint64(key) ^ _SIGN if key & 2**63 else ~np.uint64(key)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


def _merged(blocks: Sequence[Counted]) -> tuple[Array, Array, Array, int]:
    """Return the digits of all blocks, how many values have each, their weights, and how many values are not zero."""
    digits, places = np.unique(np.concatenate([block.digits for block in blocks]), return_inverse=True)
    counts = np.bincount(places, np.concatenate([block.counts for block in blocks]), len(digits)).astype(np.int64)
    sums = np.concatenate([block.counts if block.weights is None else block.weights for block in blocks])
    weights = np.bincount(places, sums, len(digits))
    return digits, counts, weights, sum(block.marked for block in blocks)
