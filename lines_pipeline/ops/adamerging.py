"""``adamerging``: coefficients of task vectors under which the merged model is sure of its answers."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from pydantic import Field

from lines_pipeline.ops.coefficients.fitting import FitSettings
from lines_pipeline.ops.coefficients.learning import Clamp, LearningOp, LearningParams


class AdamergingParams(LearningParams):
    start: float | Literal["lines"] = Field(
        0.3, description="Coefficients before the first step; lines: 1/N, and 'beta' more by depth."
    )
    lr: float = Field(1e-3, description="Learning rate.", gt=0)
    steps: int = Field(500, description="Steps of Adam.", ge=0)
    batches_per_step: int = Field(2, description="Batches of each task in a step.", gt=0)
    clamp: Clamp | None = Field(
        (0.0, 1.0),
        description="[least, most]: what coefficients are held within; beyond it they take no gradient. null: free.",
    )


class Adamerging(LearningOp[AdamergingParams]):
    """Minimises the entropy of the answers on inputs without labels; ``per: task`` and ``per: tensor`` are published.

    The source learns on the inputs of the test split: here that is ``split: test``, and marked as transductive.
    """

    name = "adamerging"
    formula = "c = argmin sum_t mean_x H(softmax(f_t(x; theta_0 + sum_s c_(s,k) tau_(s,k)))),  Adam, c in clamp"
    source = "Yang et al., arXiv 2310.02575; EnnengYang/AdaMerging, src/main_layer_wise_adamerging.py"
    Params = AdamergingParams

    def settings(self, params: AdamergingParams, batches: int) -> FitSettings:
        adam = partial(torch.optim.Adam, lr=params.lr, foreach=False)
        return FitSettings(_entropy, adam, params.steps, params.batches_per_step, params.clamp)


def _entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean entropy of the answers, without a look at the labels."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
