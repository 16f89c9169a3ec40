"""``dc-merge``: tasks merged entry by entry in the directions that all of them cover, each in its own block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import (
    Triplets,
    decomposition_bytes,
    leading_triplets,
    matrix_bytes,
    polar_factor,
    strip_bytes,
    vectors_bytes,
)
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams
from lines_pipeline.ops.tsv_m import rank_by_task

_CORES = 5
"""How many float64 matrices [R, R] are held at most: what is kept of all cores, one whole, and their election."""


class DcMergeParams(SpectralParams):
    density: float = Field(
        0.001, description="Share of the entries of each task's core to keep, one at least, in (0, 1].", gt=0, le=1
    )
    max_ratio: float | None = Field(
        None,
        description="Smooths the singular values of a task: they fall in a straight line, at the same sum, the largest "
        "at most that many times the smallest; 1 makes all equal. Default: as they are.",
        ge=1,
    )
    rank: int | None = Field(None, description="Triplets a task, R/N at most; default R/N.", ge=1)


class DcMerge(SpectralOp[DcMergeParams]):
    """Writes each task's leading triplets in a basis that covers those of all tasks, keeps the largest entries, elects
    signs, and takes the mean of agreeing entries, in the blocks on the diagonal alone: one a task. Experimental: there
    is no case of the authors' to compare with.

    Differs from the source where a task's matrix has fewer directions than it may keep: null directions are left out.
    """

    name = "dc-merge"
    version = 2
    formula = (
        "P A Q^T,  P = polar([U_1 .. U_N]), Q = polar([V_1 .. V_N]), R/N triplets a task,  A: blocks on the diagonal "
        "of the mean of those largest entries of P^T U_t diag(s_t) V_t^T Q that have the sign of their sum   "
        "(others: mean)"
    )
    source = "Zhang et al., arXiv 2603.06242; Tobeginwith/DC-Merge, vision_fft_merge/src/utils/DC_utils.py (dc_merge)"
    Params = DcMergeParams

    def rank(self, params: DcMergeParams, tensor: TensorSpec, count: int) -> int:
        return min(rank_by_task(tensor, count), params.rank or min(tensor.shape))

    def merging_bytes(self, params: DcMergeParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        directions = 2 * vectors_bytes(tensor) + decomposition_bytes(tensor) + strip_bytes(tensor)
        return matrix_bytes(tensor) + directions + _CORES * 8 * min(tensor.shape) ** 2

    def merge(self, params: DcMergeParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        rank, count = self.rank(params, tensor, len(matrices)), len(matrices)
        if not rank:
            return torch.zeros_like(matrices[0])
        tasks = [_smoothed(leading_triplets(matrices[task], rank), params.max_ratio) for task in range(count)]
        left, right = (_cover(sides, rank) for sides in zip(*((task.left, task.right) for task in tasks), strict=True))
        entries = (rank * count if params.rank else min(tensor.shape)) ** 2
        kept = max(1, int(params.density * entries))
        cores = torch.stack([_own_blocks(task, left, right, count=count, kept=kept) for task in tasks])
        return _times_blocks(left, _agreed(cores)) @ right.T


def _smoothed(triplets: Triplets, max_ratio: float | None) -> Triplets:
    """Return triplets whose singular values fall in a straight line, at the same sum; as they are without a ratio."""
    values = triplets.values
    if max_ratio is None or not len(values):
        return triplets
    line = torch.linspace(min(max_ratio, float(values[0] / values[-1])), 1.0, len(values), dtype=values.dtype)
    return replace(triplets, values=(line / line.sum()).to(values.device) * values.sum())


def _cover(sides: tuple[torch.Tensor, ...], rank: int) -> torch.Tensor:
    """Return the polar factor of all tasks' vectors side by side, ``rank`` columns a task; zeros where it has fewer."""
    together = sides[0].new_zeros(len(sides[0]), rank * len(sides))
    for task, side in enumerate(sides):
        together[:, task * rank : task * rank + side.shape[1]] = side
    return polar_factor(together)


def _own_blocks(task: Triplets, left: torch.Tensor, right: torch.Tensor, *, count: int, kept: int) -> torch.Tensor:
    """Return the blocks [N, r, r] on the diagonal of a task's core in the covering bases, its largest entries alone."""
    core = ((left.T @ task.left).double() * task.values) @ (right.T @ task.right).double().T
    magnitudes = core.abs()
    smallest = magnitudes.flatten().topk(min(kept, magnitudes.numel())).values[-1]
    core *= magnitudes >= smallest
    rank = len(core) // count
    return core.reshape(count, rank, count, rank).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()


def _agreed(cores: torch.Tensor) -> torch.Tensor:
    """Return the mean over tasks of the entries that have the sign of their sum; 0 where that is 0."""
    agreeing = cores.sign() == cores.sum(0).sign()
    return (cores * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def _times_blocks(left: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return [m, N r] times the matrix that has the blocks [N, r, r] on its diagonal."""
    count, rank, _ = blocks.shape
    by_block = left.reshape(len(left), count, rank).transpose(0, 1)
    return torch.bmm(by_block, blocks.to(left.dtype)).transpose(0, 1).reshape(len(left), count * rank)
