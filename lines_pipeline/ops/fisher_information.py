"""``fisher-information``: how much a model's answers on a task depend on each of its entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lines_pipeline.ops.drivers import DriverContext
from lines_pipeline.ops.per_sample import squared_gradients, squared_gradients_bytes
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.task_models import TaskModel
from lines_pipeline.ops.task_statistics import TaskParams, TaskStatistics


class FisherInformation(TaskStatistics):
    """Takes the exact expectation over the model's own class probabilities, sample by sample; heads stay frozen."""

    name = "fisher-information"
    formula = "mean_x sum_c p_c (d log p_c / d theta)^2,  p_c = p(c | x, theta)"
    source = "Matena and Raffel, arXiv 2111.09832; mmatena/model_merging, fisher.py (_compute_exact_fisher_for_batch)"

    def schema(self, params: TaskParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        (model,) = inputs["model"]
        floating = {name: spec for name, spec in model.tensors.items() if spec.is_floating}
        aliases = {alias: name for alias, name in model.aliases.items() if name in floating}
        return Schema(floating, model.names, aliases=aliases, origin=model.origin, sizes=model.sizes, partial=True)

    def driver_bytes(self, params: TaskParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        (model,) = inputs["model"]
        numel, largest = sum(model.numels.values()), max(model.numels.values(), default=0)
        return 2 * model.state_bytes + squared_gradients_bytes(numel, largest, params.rows)

    def measure(self, params: TaskParams, step: str, context: DriverContext) -> dict[str, torch.Tensor]:
        """Return the information of every floating-point tensor, by all its names; zero where it is no parameter."""
        suite, state = context.suite(params.suite), context.materialise(step)
        task = TaskModel.of(suite, params.task, state, context.device)
        total: dict[str, torch.Tensor] = {}
        count = 0
        for inputs in task.inputs(suite, params.split, params.rows):
            count += len(inputs)
            for name, value in squared_gradients(task.logits, task.parameters, inputs).items():
                total[name] = total[name] + value if name in total else value
        known = {name: total[parameter] / count for name, parameter in task.names.items()}
        floating = {name: value for name, value in state.items() if value.is_floating_point()}
        return {name: known.get(name, torch.zeros_like(value)) for name, value in floating.items()}
