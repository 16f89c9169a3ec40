"""``wudi-closed``: the update whose difference from each task vector interferes least with it, solved for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import FACTOR_BYTES, ROUNDING, matrix_bytes, solved_from_right
from lines_pipeline.ops.interference import Interference, interference_bytes
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams


class WudiClosedParams(SpectralParams):
    others: Literal["mean", "base"] = Field(
        "base", description="All other tensors: no update, or the mean of the task vectors."
    )
    ridge: float = Field(1e-3, description="Added to the diagonal of G, as a fraction of its mean; 0 allowed.", ge=0)


class WudiClosed(SpectralOp[WudiClosedParams]):
    """Solves for the minimum that ``wudi`` steps towards.

    It scales with the task vectors, and of one task it is that task's, up to the ridge. The closed form is this
    project's own; the loss is that of the paper.
    """

    name = "wudi-closed"
    version = 2
    formula = (
        "B (G + ridge mean(diag G) I)^-1,  B = sum_t tau_t G_t,  G = sum_t G_t,  G_t = tau_t^T tau_t / |tau_t|^2   "
        "(others: no update)"
    )
    source = "the loss of Cheng et al., arXiv 2503.08099; solved here"
    Params = WudiClosedParams

    def merging_bytes(self, params: WudiClosedParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        square = tensor.shape[1] ** 2
        solving = 8 * (square + 3 * tensor.numel) if params.ridge else FACTOR_BYTES * square + 16 * tensor.numel
        return interference_bytes(tensor) + solving + matrix_bytes(tensor)

    def merge(self, params: WudiClosedParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        interference = Interference.of(matrices)
        rounding = (ROUNDING * torch.finfo(interference.total.dtype).eps) ** 2 / len(interference.gram)
        unknown = max(torch.finfo(torch.float64).eps, rounding)
        merged, _ = solved_from_right(interference.gram, interference.target, params.ridge, unknown_below=unknown)
        return merged.to(interference.total.dtype)
