"""``recalibrate``: the statistics of BatchNorm layers, measured anew on what a model is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Ids, Op, OpParams, Port
from lines_pipeline.ops.drivers import Driver, DriverContext, Measured, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.ops.schemas.schema import Schema
from lines_pipeline.ops.task_models import TaskModel

BATCH_ROWS = 128
"""Samples that a model is given at a time, of all tasks together."""


class RecalibrateParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    tasks: tuple[str, ...] | None = Field(None, description="Whose inputs; default all of the suite.", strict=False)
    split: Literal["train", "val"] = Field("val", description="Which data; labels are not used.")
    rows: int = Field(256, description="Samples a task: the first ones, in the split's order.", gt=0)


class Recalibrate(Op[RecalibrateParams]):
    """Gives running means and variances of what each BatchNorm layer gets while it normalizes by batch; all other
    tensors, and how many batches were tracked, stay as they are.

    Differs from the source in what is kept: mean and unbiased variance of all rows together, in float64, not the mean
    of those of batches; and in that dropout stays off. Every batch has inputs of all tasks.
    """

    name = "recalibrate"
    formula = "running_mean = mean(x), running_var = var(x)  by channel, x the inputs of a BatchNorm layer"
    source = "Jordan et al., arXiv 2211.08403 (REPAIR); torch.optim.swa_utils.update_bn"
    gives = EdgeType.WEIGHTS
    inputs = {"model": Port(EdgeType.WEIGHTS, followed=True)}
    granularity = Granularity.MODEL
    untuned = frozenset({"split"})
    Params = RecalibrateParams

    def suite_of(self, params: RecalibrateParams, inputs: Ids) -> SuiteUse:
        return SuiteUse(params.suite, params.split, params.tasks)

    def driver_bytes(self, params: RecalibrateParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        return 2 * inputs["model"][0].state_bytes

    def driver_of(self, params: RecalibrateParams) -> Driver:
        def measure(inputs: Ids, context: DriverContext) -> Variant:
            digest = context.suite(params.suite).digest(params.split)
            (model,) = inputs["model"]
            return Variant(self, params, inputs, Measured(digest, lambda: _recalibrated(params, model, context)))

        return measure

    def explain(
        self, params: RecalibrateParams, value: PlannedValue, stats: Mapping[str, float] | None
    ) -> OpExplanation:
        tasks = ", ".join(params.tasks) if params.tasks else "each task"
        line = f"measured on {params.rows} samples of {tasks} ({params.split}), before the first pass"
        return OpExplanation((line,), {"split": params.split, "rows": params.rows})


class Moments:
    """Counts, sums and sums of squares of what a BatchNorm layer gets, by channel and in float64."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self._count = 0
        self._sum, self._squares = torch.zeros(2, channels, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, layer: _BatchNorm) -> Moments:
        """Let a layer normalize by batch from now on, and count what it gets."""
        assert layer.running_mean is not None
        moments = cls(len(layer.running_mean), layer.running_mean.device)
        layer.train().register_forward_pre_hook(lambda module, inputs: moments.add(inputs[0]))
        return moments

    def add(self, values: torch.Tensor) -> None:
        """Count inputs [n, channels, ...]."""
        rows = values.transpose(0, 1).flatten(1).double()
        self._count += rows.shape[1]
        self._sum += rows.sum(1)
        self._squares += rows.square().sum(1)

    @property
    def mean(self) -> torch.Tensor:
        """Return the mean of each channel: float64 [channels]."""
        mean: torch.Tensor = self._sum / self._count
        return mean

    @property
    def variance(self) -> torch.Tensor:
        """Return the unbiased variance of each channel: float64 [channels]."""
        beyond: torch.Tensor = self._squares - self._count * self.mean.square()
        return beyond.clamp(min=0) / max(self._count - 1, 1)


def _recalibrated(params: RecalibrateParams, step: str, context: DriverContext) -> dict[str, torch.Tensor]:
    suite = context.suite(params.suite)
    tasks = tuple(dict.fromkeys(params.tasks or suite.tasks))
    state = dict(context.materialise(step))
    model = TaskModel.of(suite, tasks[0], state, context.device)
    moments = {prefix: Moments.of(layer) for prefix, layer in _layers(model.module, state).items()}
    rows = max(BATCH_ROWS // len(tasks), 1)
    inputs = [_in_rows(replace(model, task=task).inputs(suite, params.split, params.rows), rows) for task in tasks]
    with torch.no_grad():
        for batches in zip_longest(*inputs):
            model.module(torch.cat([batch for batch in batches if batch is not None]))
    for prefix, measured in moments.items():
        state |= {f"{prefix}running_mean": measured.mean, f"{prefix}running_var": measured.variance}
    return state


def _layers(module: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers with statistics of their own, by the prefix of their tensors' names."""
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    by_prefix = {}
    for name in state:
        prefix, _, buffer = name.rpartition("running_mean")
        fitting = [path for path in layers if f"{path}.".endswith(f".{prefix}") or f"{path}." == prefix or not path]
        if not buffer and name.endswith("running_mean") and len(fitting) == 1:
            by_prefix[prefix] = layers[fitting[0]]
    if not by_prefix:
        raise EvalError("the model has no BatchNorm layer with running statistics: leave 'recalibrate' out")
    return by_prefix


def _in_rows(batches: Iterator[torch.Tensor], rows: int) -> Iterator[torch.Tensor]:
    """Yield the same inputs in batches of so many, the last of them smaller."""
    waiting: list[torch.Tensor] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= rows:
            *whole, last = torch.split(torch.cat(waiting), rows)
            waiting = [last]
            yield from whole
    yield from torch.split(torch.cat(waiting), rows) if waiting else ()
