"""How the matrices of a task vector lie beside those of the base: their effective ranks, and how far both commute.

A matrix of one block is measured where it is read. Larger ones are put together from their blocks: a share of them a
sweep, so that no sweep keeps the whole model.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from typing_extensions import TypeVar

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, TensorSpec
from lines_pipeline.jit.boundary import Untraceable
from lines_pipeline.ops.decompositions import add_gram, strips
from lines_pipeline.ops.kernels import Block, Value
from lines_pipeline.ops.statistics.contract import Reductions, Retry, Statistic

SHARES = 3
"""In so many sweeps larger matrices are put together, where memory is not bounded."""
MOST_SHARES = 10

Measured = TypeVar("Measured")
"""What is measured of one matrix."""


class Figures(NamedTuple):
    """Holds what is measured of one matrix of an update, beside the base's."""

    rank: float
    """Its effective rank."""
    conflict: float
    """``(|A D^T - D A^T| + |A^T D - D^T A|) / (2 |A| |D|)`` of the base's A and the update's D: 0 to 2."""

    @classmethod
    def of(cls, base: torch.Tensor, update: torch.Tensor) -> Figures | None:
        """Measure two matrices of one shape, in float64; None where one of them is zero."""
        if base.shape[0] < base.shape[1]:
            base, update = base.T, update.T
        columns = base.shape[1]
        own, changed, mixed = (torch.zeros(columns, columns, dtype=torch.float64) for _ in range(3))
        add_gram(own, base)
        add_gram(changed, update)
        for rows, other in zip(strips(base, columns), strips(update, columns), strict=True):
            mixed.addmm_(rows.double().T, other.double())
        norms = math.sqrt(float(own.trace()) * float(changed.trace()))
        if not norms or not math.isfinite(norms):
            return None
        outer = max(2 * float((own * changed).sum()) - 2 * float((mixed * mixed.T).sum()), 0.0)
        conflict = math.sqrt(outer) + float((mixed - mixed.T).norm())
        return cls(_rank_by_gram(changed), conflict / (2 * norms))


def effective_rank(matrix: torch.Tensor) -> float | None:
    """Return exp(entropy(s^2 / sum s^2)) of a matrix's singular values s; None for a matrix of zeros."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    add_gram(gram, matrix)
    square = float(gram.trace())
    return _rank_by_gram(gram) if square and math.isfinite(square) else None


def _rank_by_gram(gram: torch.Tensor) -> float:
    """Return the exponential of the entropy of the squared singular values' shares, of a Gram matrix."""
    squares = torch.linalg.eigvalsh(gram).clamp(min=0)
    return math.exp(float(torch.special.entr(squares / squares.sum()).sum()))


@dataclass(frozen=True)
class _Waiting:
    """Holds the names of the larger matrices by sweep, from the one that keeps them next on, and what is known."""

    shares: tuple[frozenset[str], ...]
    known: Mapping[str, Any]


@dataclass(frozen=True)
class _MatrixStatistic(Statistic[Any, Mapping[str, Measured], Any]):
    """Measures the matrices that values ``of`` have under one name, side by side, where they are not zero.

    Matrices without a number in their names, such as embeddings, belong to no block: they are left out.
    """

    shares: int = field(default=SHARES, compare=False)
    """Tells how much is kept at a time, not what comes out."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[object], state: Any) -> Reductions:
        if not all(isinstance(value, torch.Tensor) for value in values):
            raise Untraceable("effective ranks")
        if len(tensor.shape) != 2 or not any(map(str.isdigit, tensor.name)):
            return (None, None)
        is_small = tensor.numel <= BLOCK_NUMEL
        if is_small == (state is not None) or not (is_small or tensor.name in state.shares[0]):
            return (None, tensor.shape)
        blocks = np.stack([_on_cpu(value) for value in values])
        return (self._measured([blocks], tensor.shape) if is_small else blocks, tensor.shape)

    def partial(self, *reduced: Any) -> Any:
        return reduced

    def combine(self, partials: Mapping[str, list[Any]], numels: Mapping[str, int], state: Any) -> Any:
        found: dict[str, Measured | None] = {}
        for name, blocks in partials.items():
            first, shape = blocks[0]
            whole = isinstance(first, np.ndarray)
            found[name] = self._measured([block for block, _ in blocks], shape) if whole else first
        known = {name: figures for name, figures in found.items() if figures is not None}
        if state is None:
            shapes = {name: blocks[0][1] for name, blocks in partials.items() if blocks[0][1] is not None}
            shares = _balanced({name: math.prod(shape) for name, shape in shapes.items()}, self.shares)
        else:
            known, shares = {**state.known, **known}, state.shares[1:]
        return Retry(_Waiting(shares, known)) if shares else known

    def kept_bytes(self, numels: Mapping[str, int], item_bytes: int) -> int:
        shares = _balanced(numels, self.shares)
        largest = max((numel for numel in numels.values() if numel > BLOCK_NUMEL), default=0)
        kept = max((sum(numels[name] for name in share) for share in shares), default=0)
        return len(self.of) * item_bytes * kept + _MEASURING_BYTES * largest

    def narrowed(self, factor: float) -> Self:
        return replace(self, shares=min(int(self.shares * factor), MOST_SHARES))

    @abstractmethod
    def measure(self, *matrices: torch.Tensor) -> Measured | None:
        """Measure one matrix of each of ``of``; None where that cannot be."""

    def _measured(self, blocks: Sequence[Any], shape: tuple[int, ...]) -> Measured | None:
        """Measure what blocks hold one above the other; None where these are not whole matrices."""
        values = torch.from_numpy(np.concatenate(blocks, axis=1))
        return self.measure(*values.reshape(-1, *shape)) if values.shape[1] == math.prod(shape) else None


@dataclass(frozen=True)
class EffectiveRanks(_MatrixStatistic[float]):
    """Measures the effective ranks of a model's matrices: a base's once for all updates."""

    def measure(self, *matrices: torch.Tensor) -> float | None:
        return effective_rank(*matrices)


@dataclass(frozen=True)
class BesideBase(_MatrixStatistic[Figures]):
    """Measures the matrices of an update beside those of a base, which come first in ``of``."""

    version = 2

    def measure(self, *matrices: torch.Tensor) -> Figures | None:
        return Figures.of(*matrices)

    def decode(self, result: Any) -> Mapping[str, Figures]:
        return {name: Figures(*figures) for name, figures in result.items()}


_MEASURING_BYTES = 6 * 8
"""Bytes by entry of a matrix while it is measured: three Gram matrices of its smaller side, and their products."""


def _on_cpu(value: Block) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = value.numpy(force=True)
    return array


def _balanced(numels: Mapping[str, int], count: int) -> tuple[frozenset[str], ...]:
    """Return the names of tensors of several blocks, in at most ``count`` shares of about as many entries each."""
    large = sorted((name for name, numel in numels.items() if numel > BLOCK_NUMEL), key=lambda n: (-numels[n], n))
    shares: list[set[str]] = [set() for _ in range(min(count, len(large)))]
    for name in large:
        min(shares, key=lambda share: sum(numels[other] for other in share)).add(name)
    return tuple(map(frozenset, shares))
