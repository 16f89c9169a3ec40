"""``atlas``: coefficients of task vectors that are learned from labelled inputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from lines_pipeline.core.events import Note
from lines_pipeline.ops.coefficients.fitting import Fit, FitSettings
from lines_pipeline.ops.coefficients.learning import LearningOp, LearningParams, progress
from lines_pipeline.ops.drivers import DriverContext, TaskData

ROUNDS = 20
"""Rounds over the data, where a recipe does not say how many steps."""


class AtlasParams(LearningParams):
    start: float | Literal["lines"] = Field(
        0.0, description="Coefficients before the first step; lines: 1/N, and 'beta' more by depth."
    )
    lr: float = Field(0.1, description="Learning rate.", gt=0)
    steps: int | None = Field(None, description=f"Steps of AdamW; default {ROUNDS} rounds over the largest task.", ge=0)
    batches_per_step: int = Field(1, description="Batches of each task in a step.", gt=0)
    weight_decay: float = Field(0.1, description="Decay of the coefficients towards 0.", ge=0)
    clip_norm: float | None = Field(1.0, description="Largest norm of a gradient, over all coefficients.", gt=0)
    select: Literal["best", "last"] = Field(
        "best", description="Coefficients after the round of best accuracy on the split, or after the last step."
    )


class Atlas(LearningOp[AtlasParams]):
    """``select: best`` goes by the mean accuracy on ``split``, over that of each task's expert where it is known.

    The first of equal rounds is taken, and one that is no better than the start too: the run then says so. The source
    keeps the pretrained model in that case, takes one coefficient a tensor, and stores task vectors in float16.
    """

    name = "atlas"
    formula = "c = argmin sum_t mean_(x,y) CE(f_t(x; theta_0 + sum_s c_(s,k) tau_(s,k)), y),  AdamW, clipped gradient"
    source = "Zhang et al., arXiv 2407.02880; fredzzhang/atlas, src/learn_task_addition.py, src/composition.py"
    Params = AtlasParams

    def settings(self, params: AtlasParams, batches: int) -> FitSettings:
        adam = partial(torch.optim.AdamW, lr=params.lr, weight_decay=params.weight_decay, foreach=False)
        steps = ROUNDS * _steps_a_round(params, batches) if params.steps is None else params.steps
        return FitSettings(
            functional.cross_entropy, adam, steps, params.batches_per_step, params.clamp, params.clip_norm
        )

    def fitted(self, params: AtlasParams, fit: Fit, context: DriverContext, data: TaskData) -> list[torch.Tensor]:
        if params.select == "last" or fit.settings.steps == 0:
            return super().fitted(params, fit, context, data)
        experts = data.baselines("expert", [inputs.task for inputs in fit.tasks.inputs], params.split)
        start = _score(fit.accuracies(), experts)
        best, chosen = -1.0, fit.coefficients()
        every = _steps_a_round(params, max(fit.tasks.order.batches(len(inputs)) for inputs in fit.tasks.inputs))
        for step in progress(fit, context):
            if step % every == 0 or step == fit.settings.steps:
                score = _score(fit.accuracies(), experts)
                if score > best:
                    best, chosen = score, fit.coefficients()
        if best <= start:
            message = (
                f"no round is better than the start, {start:.4f} on '{params.split}'; taken is the best, {best:.4f}"
            )
            context.emit(Note(f"node '{context.node}': {message}", warning=True))
        return chosen

    def table_rows(self, coefficients: list[list[float]]) -> list[list[float]]:
        return [list(column) for column in zip(*coefficients, strict=True)]


def _steps_a_round(params: AtlasParams, batches: int) -> int:
    return -(-batches // params.batches_per_step)


def _score(accuracies: Mapping[str, float], experts: Mapping[str, Mapping[str, float]]) -> float:
    """Return the mean accuracy, normalized by the experts' where all of them are known."""
    known = {task: experts.get(task, {}).get("accuracy", 0.0) for task in accuracies}
    if not all(known.values()):
        return fmean(accuracies.values())
    return fmean(value / known[task] for task, value in accuracies.items())
