"""``cart``: the mean of the task vectors, and the leading directions in which each differs from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import decomposition_bytes, leading_triplets, matrix_bytes, vectors_bytes
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams


class CartParams(SpectralParams):
    rank_ratio: float = Field(
        0.08, description="Triplets kept of each task, as a fraction of the smaller side; at least one.", gt=0, le=1
    )
    scale: float = Field(1.0, description="Coefficient of the sum of the kept triplets, not of the mean.")


class Cart(SpectralOp[CartParams]):
    """Adds to the mean of the task vectors the leading triplets of what each of them has beyond it.

    Differs from the source in taking all 2-D tensors but ``text_projection`` unless ``matrices`` says otherwise: the
    source takes those of ``attn`` and ``mlp`` modules. One task keeps its own update.
    """

    name = "cart"
    version = 2
    formula = "a + c sum_t lowrank_k(tau_t - a),  a = mean_t tau_t,  k = max(1, int(ratio R))   (others: mean)"
    source = "Choi et al., arXiv 2412.12153; JH-GEECS/CART, src/merging.py"
    Params = CartParams

    def rank(self, params: CartParams, tensor: TensorSpec, count: int) -> int:
        return max(1, int(params.rank_ratio * min(tensor.shape)))

    def merging_bytes(self, params: CartParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 3 * matrix_bytes(tensor) + vectors_bytes(tensor) + decomposition_bytes(tensor)

    def matrices_taken(self, params: CartParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 2

    def merge(self, params: CartParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        rank = self.rank(params, tensor, len(matrices))
        mean = matrices.sum() / len(matrices)
        merged = mean.clone()
        for task in range(len(matrices)):
            merged += leading_triplets(matrices[task] - mean, rank).product() * params.scale
        return merged
