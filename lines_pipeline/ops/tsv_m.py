"""``tsv-m``: the leading singular vectors of all tasks side by side, decorrelated."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import (
    SideBySide,
    decomposition_bytes,
    decorrelated,
    leading_triplets,
    matrix_bytes,
    strip_bytes,
    vectors_bytes,
)
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams


def rank_by_task(tensor: TensorSpec, count: int) -> int:
    """Return how many singular triplets each of ``count`` tasks keeps of a matrix, as the source computes it."""
    return int(min(tensor.shape) * (1 / count))


class TsvM(SpectralOp):
    """Keeps R/N singular triplets of each task, and replaces the singular vectors of all tasks by the polar factors of
    both sides. A matrix whose smaller side is below the number of tasks gets no update.

    Differs from the source where a task's matrix has fewer directions than it may keep: null directions are left out.
    """

    name = "tsv-m"
    version = 3
    formula = "polar([U_1 .. U_N]) diag(s_1 .. s_N) polar([V_1 .. V_N])^T,  R/N triplets a task   (others: mean)"
    source = "Gargiulo et al., arXiv 2412.00081; AntoAndGar/task_singular_vectors, TSVM_utils.py"

    def rank(self, params: SpectralParams, tensor: TensorSpec, count: int) -> int:
        return rank_by_task(tensor, count)

    def merging_bytes(self, params: SpectralParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return matrix_bytes(tensor) + 2 * vectors_bytes(tensor) + decomposition_bytes(tensor) + strip_bytes(tensor)

    def merge(self, params: SpectralParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        rank = rank_by_task(tensor, len(matrices))
        kept = SideBySide(rank * len(matrices))
        for task in range(len(matrices)):
            kept.add(leading_triplets(matrices[task], rank))
        return decorrelated(kept.filled())
