"""``iso-c``: the sum of task vectors with a flat spectrum."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import decomposition_bytes, isotropic, matrix_bytes
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams


class IsoC(SpectralOp):
    """Gives all directions of the summed update the mean singular value; a matrix that no task changed stays unchanged.

    Differs from the source where the sum has fewer directions than its smaller side: null directions, which a
    decomposition leaves undetermined, get no update.
    """

    name = "iso-c"
    version = 2
    formula = "mean(s) U V^T  of  sum_t tau_t = U diag(s) V^T   (2-D tensors; others: mean of the tau_t)"
    source = "Marczak et al., arXiv 2502.04959; danielm1405/iso-merging, src/utils/iso.py (iso_c)"

    def merging_bytes(self, params: SpectralParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return matrix_bytes(tensor) + decomposition_bytes(tensor)

    def merge(self, params: SpectralParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        return isotropic(matrices.sum())
