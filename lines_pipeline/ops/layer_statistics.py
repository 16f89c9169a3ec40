"""What ``gram`` and ``layer-inputs`` have in common: they run a model on a task's inputs, and observe its layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.capturing import LayerInputs, Tell
from lines_pipeline.ops.drivers import DriverContext
from lines_pipeline.ops.padding import in_distinct_axes, rows_of_tokens, token_mask
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.task_models import TaskModel
from lines_pipeline.ops.task_statistics import TaskParams, TaskStatistics
from lines_pipeline.ops.token_counts import TokenCounts

Observer = Callable[[Tell], None]
"""Runs a model, and tells the inputs of its layers as rows [n, in], by the name of the weight."""


class LayerStatistics(TaskStatistics):
    """Measures the inputs of linear layers. Which layers a model has, only the suite's module tells: until a run has
    measured them, plans take every matrix whose name may be that of a weight for one of a layer."""

    tells_tensors = True

    @abstractmethod
    def presumed(self, rows: int, weight: TensorSpec) -> TensorSpec:
        """Return what is measured of a weight [out, in] on so many rows, as far as that can be told without the model.

        Of texts there may be fewer rows: padding is none of them.
        """

    @abstractmethod
    def measured(self, observe: Observer) -> dict[str, torch.Tensor]:
        """Return the tensors of the result."""

    @abstractmethod
    def measured_bytes(self, tensors: Sequence[TensorSpec]) -> int:
        """Return the memory that the tensors of the result take while they are measured."""

    def schema(self, params: TaskParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        (model,) = inputs["model"]
        tensors = context.measured
        if tensors is None:
            tensors = {spec.name: spec for spec in self._presumed(params, model)}
        return Schema(tensors, tuple(tensors), origin=model.origin, partial=True)

    def driver_bytes(self, params: TaskParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        (model,) = inputs["model"]
        return 2 * model.state_bytes + self.measured_bytes(self._presumed(params, model))

    def _presumed(self, params: TaskParams, model: Schema) -> list[TensorSpec]:
        tokens = TokenCounts.of(model)
        return [self.presumed(params.rows * tokens.at(weight.name), weight) for weight in _weights(model)]

    def measure(self, params: TaskParams, step: str, context: DriverContext) -> dict[str, torch.Tensor]:
        """Return what is measured of every layer; ``EvalError`` where the model has none."""
        suite = context.suite(params.suite)
        task = TaskModel.of(suite, params.task, context.materialise(step), context.device)
        statistics = self.measured(_observer_of_task(task, task.inputs(suite, params.split, params.rows)))
        if not statistics:
            raise EvalError(f"task '{params.task}': the model has no linear layer whose weight is a tensor of its own")
        return statistics


def _weights(model: Schema) -> list[TensorSpec]:
    """Return the matrices whose names may be those of layers' weights."""
    matrices = (spec for spec in model.tensors.values() if spec.is_floating and len(spec.shape) == 2)
    return [spec for spec in matrices if spec.name.endswith("weight")]


def _observer_of_task(task: TaskModel, batches: Iterable[torch.Tensor]) -> Observer:
    """Return an observer of a task's model: layers have the first name that their weight has in the state."""
    return observer_of(task.module, weights_of(task), batches)


def weights_of(task: TaskModel) -> dict[str, torch.Tensor]:
    """Return the parameters of a model's module by their names in the state, the first name of a tied one last."""
    own = dict(task.module.named_parameters())
    return {name: own[parameter] for name, parameter in reversed(list(task.names.items()))}


def observer_of(module: nn.Module, weights: Mapping[str, torch.Tensor], batches: Iterable[torch.Tensor]) -> Observer:
    """Return what runs a module on batches and tells the inputs of these weights' layers; padding gives no rows."""

    def observe(tell: Tell) -> None:
        for batch in batches:
            for part, mask in in_distinct_axes(batch, token_mask(module, batch)):
                with torch.no_grad(), LayerInputs(weights, _told_as_rows(tell, mask)):
                    module(part)

    return observe


def _told_as_rows(tell: Tell, mask: torch.Tensor | None) -> Tell:
    """Return what tells inputs [..., in] on as rows [n, in], without those of padding."""

    def receive(name: str, inputs: torch.Tensor) -> None:
        rows = rows_of_tokens(inputs, mask)
        if len(rows):
            tell(name, rows)

    return receive
