"""``ace``: the update that fits each task best on inputs whose covariance its own update tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import Triplets, decomposition_bytes, leading_triplets, matrix_bytes
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams

SMALLEST = 1e-12
"""Added where logarithms divide."""
NO_SPREAD = 1e-24
"""Rows whose spread is less than this share of their squares are all alike, up to rounding."""


class AceParams(SpectralParams):
    eps: float = Field(
        0.01, description="Added to the diagonal of each covariance; where tasks differ, over its trace.", gt=0
    )
    tau: float = Field(
        0.3, description="Tasks differ where var(log |tau_t|^2) / mean(log |tau_t|^2)^2 exceeds it.", ge=0
    )
    k_fraction: float = Field(0.3, description="Share of the directions refined where tasks differ.", ge=0, le=1)


class Ace(SpectralOp[AceParams]):
    """Takes the rows of a task's update for a sample of its inputs, and solves for the update that is nearest to all
    tasks' on them. Where the tasks' updates differ much in size, covariances count by their traces, and leading
    directions of the solution and of what it leaves are added at their mean singular value.

    Not scale-equivariant: ``eps`` and the logarithms are in units of weights. Differs from the source where a task
    leaves a matrix as it is, or moves all of its rows alike: there it is left out, which the source divides by 1e-12.
    Null directions are not refined. Sums and solution are in float64.
    """

    name = "ace"
    formula = (
        "M = sum_t W_t C_t (sum_t C_t + 1 c^T)^-1,  W_t = tau_t - 1 mean(rows),  C_t = W_t^T W_t + eps I,  c the "
        "column means of sum_t W_t^T W_t;  tasks that differ: C_t / tr, c / mean |tau_t|^2, and M + mean(s) U V^T of "
        "the k leading triplets of M + sum_t tau_t (W_t^T W_t / tr - mean C)   (others: mean of the tau_t)"
    )
    source = "Xu et al., arXiv 2603.02945; unravel-xu/ACE-Merging, src/merge/strategy.py (ace_merging)"
    Params = AceParams

    def matrices_taken(self, params: AceParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 2

    def merging_bytes(self, params: AceParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        sums = 8 * (6 * tensor.numel + 4 * tensor.shape[1] ** 2)
        return sums + matrix_bytes(tensor) + decomposition_bytes(tensor)

    def rank(self, params: AceParams, tensor: TensorSpec, count: int) -> int:
        return int(min(tensor.shape) * params.k_fraction)

    def merge(self, params: AceParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        sizes = [_Size.of(matrices[task]) for task in range(len(matrices))]
        taken = [task for task, size in enumerate(sizes) if size.spread > size.square * NO_SPREAD]
        if not taken:
            return torch.zeros_like(matrices[0])
        kept = [sizes[task] for task in taken]
        differ = _unevenness(kept) > params.tau
        sums = _Sums.of(tensor, matrices[0].device)
        for task, size in zip(taken, kept, strict=True):
            sums.add(matrices[task], params.eps, size.spread if differ else 1.0)
        prior = sums.covariance.mean(0) / (fmean(size.square for size in kept) if differ else 1.0)
        merged = sums.solved(prior)
        if differ:
            merged += _leading(merged + sums.residual(len(taken)), self.rank(params, tensor, len(taken)))
        return merged.to(matrices[0].dtype)


@dataclass(frozen=True)
class _Size:
    """Holds the sum of a matrix' squares, and that of what is left of it without the mean of its rows."""

    square: float
    spread: float

    @classmethod
    def of(cls, matrix: torch.Tensor) -> _Size:
        wide = matrix.double()
        return cls(float(wide.square().sum()), float((wide - wide.mean(0)).square().sum()))


@dataclass
class _Sums:
    """Sums over tasks, in float64: updates and their products with covariances [m, n], covariances [n, n]."""

    update: torch.Tensor
    product: torch.Tensor
    """``tau_t C_t``, without what is added to the diagonal."""
    target: torch.Tensor
    """``W_t C_t``, the added diagonal included."""
    covariance: torch.Tensor
    diagonal: float = 0.0
    """What is added to the diagonal of all covariances together."""

    @classmethod
    def of(cls, tensor: TensorSpec, device: torch.device) -> _Sums:
        """Return zero sums for matrices of a tensor's shape."""
        shapes = (*(tensor.shape for _ in range(3)), (tensor.shape[1],) * 2)
        update, product, target, covariance = (
            torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes
        )
        return cls(update, product, target, covariance)

    def add(self, matrix: torch.Tensor, eps: float, divisor: float) -> None:
        """Add a task; its covariance counts over a divisor, and ``eps`` as well."""
        update = matrix.double()
        centred = update - update.mean(0)
        covariance = (centred.T @ centred).div_(divisor)
        self.update += update
        self.covariance += covariance
        self.product.addmm_(update, covariance)
        self.target.addmm_(centred, covariance).add_(centred, alpha=eps / divisor)
        self.diagonal += eps / divisor

    def solved(self, prior: torch.Tensor) -> torch.Tensor:
        """Return M [m, n] with ``M (sum C_t + 1 prior^T) = sum W_t C_t``."""
        system = self.covariance + prior
        system.diagonal().add_(self.diagonal)
        solution, failed = torch.linalg.solve_ex(system, self.target, left=False)
        least_norm: torch.Tensor = self.target @ torch.linalg.pinv(system) if failed else solution
        return least_norm

    def residual(self, count: int) -> torch.Tensor:
        """Return ``sum tau_t (C_t - mean C)``, where what is added to the diagonal is in the mean alone."""
        mean = self.covariance / count
        mean.diagonal().add_(self.diagonal / count)
        rest: torch.Tensor = self.product - self.update @ mean
        return rest


def _unevenness(sizes: Sequence[_Size]) -> float:
    """Return the variance of the logarithms of squares over their mean, squared; 0 of one task."""
    if len(sizes) < 2:
        return 0.0
    logarithms = [math.log(size.square + SMALLEST) for size in sizes]
    return variance(logarithms) / (fmean(logarithms) ** 2 + SMALLEST)


def _leading(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """Return ``mean(s) U V^T`` of the leading triplets; zeros where there are none."""
    triplets = leading_triplets(matrix, rank)
    mean = triplets.values.sum() / max(rank, 1)
    return Triplets(triplets.left, mean.expand(len(triplets.values)), triplets.right).product()
