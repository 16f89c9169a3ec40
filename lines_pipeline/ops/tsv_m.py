"""``tsv-m``: the leading singular vectors of all tasks side by side, decorrelated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import decomposition_bytes, leading_triplets, polar_factor
from lines_pipeline.ops.spectral import SpectralOp, SpectralParams


def rank_by_task(tensor: TensorSpec, count: int) -> int:
    """Return how many singular triplets each of ``count`` tasks keeps of a matrix, as the source computes it."""
    return int(min(tensor.shape) * (1 / count))


class TsvM(SpectralOp):
    """Keeps R/N singular triplets of each task, and replaces the singular vectors of all tasks by the polar factors of
    both sides. A matrix whose smaller side is below the number of tasks gets no update.

    Differs from the source where a task's matrix has fewer directions than it may keep: null directions are left out.
    """

    name = "tsv-m"
    formula = "polar([U_1 .. U_N]) diag(s_1 .. s_N) polar([V_1 .. V_N])^T,  R/N triplets a task   (others: mean)"
    source = "Gargiulo et al., arXiv 2412.00081; AntoAndGar/task_singular_vectors, TSVM_utils.py"

    def rank(self, tensor: TensorSpec, count: int) -> int:
        return rank_by_task(tensor, count)

    def working_bytes(self, params: SpectralParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        kept = 4 * min(tensor.shape) * sum(tensor.shape)
        return tensor.numel * 4 + 2 * kept + decomposition_bytes(tensor.shape)

    def merge(
        self, params: SpectralParams, matrices: Iterable[torch.Tensor], tensor: TensorSpec, count: int
    ) -> torch.Tensor:
        rank = rank_by_task(tensor, count)
        triplets = [leading_triplets(matrix, rank) for matrix in matrices]
        values = torch.cat([one.values for one in triplets])
        if not len(values):
            return torch.zeros(tensor.shape, dtype=triplets[0].left.dtype, device=values.device)
        lefts, rights = torch.cat([one.left for one in triplets], 1), torch.cat([one.right for one in triplets], 1)
        triplets.clear()
        scaled = (polar_factor(lefts).double() * values).to(lefts.dtype)
        return scaled @ polar_factor(rights).T
