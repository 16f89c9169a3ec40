"""What ``gram`` and ``layer-inputs`` have in common: they run a model on a task's inputs, and observe its layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.capturing import LayerInputs
from lines_pipeline.ops.drivers import DriverContext
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.task_models import TaskModel
from lines_pipeline.ops.task_statistics import TaskParams, TaskStatistics

Observed = Iterator[tuple[str, torch.Tensor]]
"""Inputs of layers [n, in], one batch after the other, by the name of the weight."""


class LayerStatistics(TaskStatistics):
    """Measures the inputs of linear layers. Which layers a model has, only the suite's module tells: until a run has
    measured them, plans take every matrix whose name may be that of a weight for one of a layer."""

    tells_tensors = True

    @abstractmethod
    def presumed(self, params: TaskParams, weight: TensorSpec) -> TensorSpec:
        """Return what is measured of a weight [out, in], as far as that can be told without the model."""

    @abstractmethod
    def measured(self, observed: Observed) -> dict[str, torch.Tensor]:
        """Return the tensors of the result."""

    @abstractmethod
    def measured_bytes(self, tensor: TensorSpec) -> int:
        """Return the memory that a tensor of the result takes while it is measured."""

    def schema(self, params: TaskParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        (model,) = inputs["model"]
        tensors = context.measured
        if tensors is None:
            presumed = (self.presumed(params, weight) for weight in _weights(model))
            tensors = {spec.name: spec for spec in presumed}
        return Schema(tensors, tuple(tensors), origin=model.origin, partial=True)

    def driver_bytes(self, params: TaskParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        (model,) = inputs["model"]
        presumed = (self.presumed(params, weight) for weight in _weights(model))
        return 2 * model.state_bytes + sum(map(self.measured_bytes, presumed))

    def measure(self, params: TaskParams, step: str, context: DriverContext) -> dict[str, torch.Tensor]:
        """Return what is measured of every layer; ``EvalError`` where the model has none."""
        suite = context.suite(params.suite)
        task = TaskModel.of(suite, params.task, context.materialise(step), context.device)
        statistics = self.measured(_observed(task, task.inputs(suite, params.split, params.rows)))
        if not statistics:
            raise EvalError(f"task '{params.task}': the model has no linear layer whose weight is a tensor of its own")
        return statistics


def _weights(model: Schema) -> list[TensorSpec]:
    """Return the matrices whose names may be those of layers' weights."""
    matrices = (spec for spec in model.tensors.values() if spec.is_floating and len(spec.shape) == 2)
    return [spec for spec in matrices if spec.name.endswith("weight")]


def _observed(task: TaskModel, batches: Iterable[torch.Tensor]) -> Observed:
    """Run a model on batches; yield the inputs of its layers by the first name that the weight has in the state."""
    return observed(task.module, weights_of(task), batches)


def weights_of(task: TaskModel) -> dict[str, torch.Tensor]:
    """Return the parameters of a model's module by their names in the state, the first name of a tied one last."""
    own = dict(task.module.named_parameters())
    return {name: own[parameter] for name, parameter in reversed(list(task.names.items()))}


def observed(module: nn.Module, weights: Mapping[str, torch.Tensor], batches: Iterable[torch.Tensor]) -> Observed:
    """Run a module on batches; yield the inputs of the layers whose weights are given, by name."""
    for batch in batches:
        with torch.no_grad(), LayerInputs(weights) as layers:
            module(batch)
        yield from layers.seen
