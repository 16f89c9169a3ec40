"""``doge-ta``: one change that all task vectors share, against what merging costs each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.adam import ADAM_MATRICES, adam_steps
from lines_pipeline.ops.base import AnyStatistic, Ids
from lines_pipeline.ops.decompositions import (
    decomposition_bytes,
    leading_triplets,
    matrix_bytes,
    strip_bytes,
    strips,
    vectors_bytes,
)
from lines_pipeline.ops.spectral import Matrices, MatrixOp, SpectralParams
from lines_pipeline.ops.trimming import trim_statistics
from lines_pipeline.ops.tsv_m import rank_by_task


class DogeTaParams(SpectralParams):
    others: Literal["mean", "base"] = Field(
        "base", description="All other tensors: no update, or the mean of the task vectors."
    )
    norm: float = Field(0.07, description="Norm that each task's matrix is scaled to.", gt=0)
    subspace: int = Field(
        6, description="The shared change keeps out of the leading R / subspace output directions of the tasks.", ge=1
    )
    density: float = Field(
        0.3, description="Share of each task vector to keep, over all tensors of the node, in (0, 1].", gt=0, le=1
    )
    iterations: int = Field(400, description="Steps of Adam.", ge=0)
    lr: float = Field(1e-4, description="Learning rate, in the units of the weights.", gt=0)


class DogeTa(MatrixOp[DogeTaParams, Any]):
    """Adds one change to all task vectors, found by Adam with projected gradients; then trims each, and sums them at
    one norm a matrix. Steps have a fixed length: the result depends on the scale of the weights.

    Differs from the source where a task leaves a matrix as it is, by whose norm that divides: it has no part in the
    matrix. Directions that no task has are left in the gradients. The trim counts all tensors that the node keeps.
    """

    name = "doge-ta"
    version = 2
    formula = (
        "sum_t l_t m_t (tau_t + D),  l_t = norm / |tau_t|,  m_t: largest |tau_t|;  D: Adam on "
        "sum_t sum_rows (tau_t . (tau_t - sum_j l_j (tau_j + D)))^2, gradients less their part in the leading left "
        "singular vectors of [U_1 .. U_N], R/N a task   (others: no update)"
    )
    source = "Wei et al., arXiv 2501.01230; tanganke/fusion_bench, fusion_bench/method/doge_ta/doge_ta.py"
    Params = DogeTaParams

    def statistics(self, params: DogeTaParams, inputs: Ids, step: str) -> Mapping[str, AnyStatistic]:
        deltas = inputs["deltas"]
        return trim_statistics([params.density] * len(deltas), "global", deltas)

    def rank(self, params: DogeTaParams, tensor: TensorSpec, count: int) -> int:
        return rank_by_task(tensor, count)

    def merging_bytes(self, params: DogeTaParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        """Return the memory of all tasks' matrices, of what Adam holds, and of the directions that are left out."""
        held = (counts["deltas"] + ADAM_MATRICES + 3) * matrix_bytes(tensor)
        return held + vectors_bytes(tensor) + decomposition_bytes(tensor) + strip_bytes(tensor)

    def merge_by(
        self, params: DogeTaParams, matrices: Matrices, tensor: TensorSpec, stats: Mapping[str, Any]
    ) -> torch.Tensor:
        tasks = _Tasks.of(matrices, params.norm)
        descent = _Descent.of(tasks, _shared_directions(tasks, tensor, params.subspace))
        merged = torch.zeros_like(tasks.matrix(0), memory_format=torch.contiguous_format)
        change = adam_steps(merged, descent.gradient_into, params.iterations, params.lr)
        for task, scale in enumerate(tasks.scales):
            threshold = stats.get(f"threshold{task}")
            kept = tasks.matrix(task).abs() >= (0.0 if threshold is None else threshold.of(tensor))
            merged += (tasks.matrix(task) + change).mul_(scale).mul_(kept)
        return merged


@dataclass(frozen=True)
class _Tasks:
    """Holds the tasks' matrices row by row [m, N, n], and what each is scaled by: 0 where a task changes nothing."""

    stacked: torch.Tensor
    scales: tuple[float, ...]

    @classmethod
    def of(cls, matrices: Matrices, norm: float) -> _Tasks:
        first = matrices[0]
        stacked = first.new_empty(len(first), len(matrices), first.shape[1])
        del first
        scales = []
        for task in range(len(matrices)):
            stacked[:, task] = matrices[task]
            square = sum(float(rows.double().square_().sum()) for rows in strips(stacked[:, task], stacked.shape[2]))
            scales.append(norm / square**0.5 if square else 0.0)
        return cls(stacked, tuple(scales))

    def matrix(self, task: int) -> torch.Tensor:
        """Return a view of a task's matrix [m, n]."""
        return self.stacked[:, task]

    def sum(self) -> torch.Tensor:
        """Return the scaled sum [m, n]."""
        scales = torch.tensor(self.scales, dtype=self.stacked.dtype, device=self.stacked.device)
        return torch.matmul(scales, self.stacked)


def _shared_directions(tasks: _Tasks, tensor: TensorSpec, subspace: int) -> torch.Tensor:
    """Return the leading left singular vectors [m, k] of all tasks' leading left singular vectors side by side."""
    count = len(tasks.scales)
    rank = rank_by_task(tensor, count)
    together = torch.cat([leading_triplets(tasks.matrix(task), rank).left for task in range(count)], dim=1)
    return leading_triplets(together, min(min(tensor.shape) // subspace, together.shape[1])).left


@dataclass(frozen=True)
class _Descent:
    """Knows the gradient of the loss at a change D: ``-2 L sum_t (excess_t - L <tau_t, D>) tau_t`` row by row."""

    tasks: _Tasks
    excess: torch.Tensor
    """``<tau_t, tau_t - sum_j l_j tau_j>`` [m, N]: what is left of each task, row by row, without a change."""
    weight: float
    """L, the sum of what tasks are scaled by."""
    left_out: torch.Tensor
    """Directions [m, k] of unit length, orthogonal."""

    @classmethod
    def of(cls, tasks: _Tasks, left_out: torch.Tensor) -> _Descent:
        total = tasks.sum()
        own = map(tasks.matrix, range(len(tasks.scales)))
        excess = torch.stack([(matrix * (matrix - total)).sum(1) for matrix in own], dim=1)
        return cls(tasks, excess, sum(tasks.scales), left_out)

    def gradient_into(self, change: torch.Tensor, gradient: torch.Tensor) -> None:
        """Write the gradient at a change, less its part in the directions that are left out."""
        stacked = self.tasks.stacked
        responses = torch.bmm(stacked, change.unsqueeze(2)).squeeze(2)
        rest = (self.excess - self.weight * responses).mul_(-2 * self.weight)
        torch.bmm(rest.unsqueeze(1), stacked, out=gradient.unsqueeze(1))
        gradient.addmm_(self.left_out, self.left_out.T @ gradient, alpha=-1)
