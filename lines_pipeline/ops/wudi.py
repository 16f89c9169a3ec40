"""``wudi``: the update whose difference from each task vector interferes least with it, found by Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.adam import adam_steps
from lines_pipeline.ops.decompositions import matrix_bytes
from lines_pipeline.ops.interference import Interference, interference_bytes
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams


class RelativeRate(BaseModel):
    """A learning rate in terms of what is merged."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    relative: float = Field(description="In units of the mean magnitude of the task vectors' sum.", gt=0)


class WudiParams(SpectralParams):
    others: Literal["mean", "base"] = Field(
        "base", description="All other tensors: no update, or the mean of the task vectors."
    )
    iterations: int = Field(300, description="Steps of Adam.", ge=0)
    lr: Annotated[float, Field(gt=0)] | RelativeRate = Field(
        1e-5, description="Learning rate, in the units of the weights; {relative: 0.01}: of the sum's mean magnitude."
    )


class Wudi(SpectralOp[WudiParams]):
    """Takes Adam's steps from the sum of the task vectors towards the least interference.

    Steps have a fixed length, so that the result depends on the scale of the weights (unless ``lr`` is relative, which
    is ours) and, after 300 steps, on where it began: ``wudi-closed`` is the minimum itself. Differs from the source in
    the gradient, which comes from two matrices in place of all task vectors, and where a task does not update a matrix:
    it is left out (the source divides by 0).
    """

    name = "wudi"
    formula = "argmin_M sum_t |(M - tau_t) tau_t^T|^2 / |tau_t|^2,  Adam from M = sum_t tau_t   (others: no update)"
    source = "Cheng et al., arXiv 2503.08099; nathanielyvo/WUDI-Merging, vit/wudi_main.py (get_redundant_task_vector)"
    Params = WudiParams

    def merging_bytes(self, params: WudiParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        gram = matrix_bytes(tensor) * tensor.shape[1] // tensor.shape[0]
        return interference_bytes(tensor) + gram + 5 * matrix_bytes(tensor)

    def merge(self, params: WudiParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        interference = Interference.of(matrices)
        total, start, gram = (
            interference.total,
            interference.gradient_at_total(),
            interference.gram.to(interference.total.dtype),
        )
        del interference
        rate = params.lr.relative * float(total.abs().mean()) if isinstance(params.lr, RelativeRate) else params.lr
        return total.add_(_stepped(start, gram, params.iterations, rate))


def _stepped(start: torch.Tensor, gram: torch.Tensor, iterations: int, rate: float) -> torch.Tensor:
    """Return how far Adam gets from where half the gradient is ``start``: D away from there it is ``start + D G``."""

    def gradient_into(moved: torch.Tensor, gradient: torch.Tensor) -> None:
        torch.addmm(start, moved, gram, out=gradient).mul_(2)

    return adam_steps(start, gradient_into, iterations, rate)
