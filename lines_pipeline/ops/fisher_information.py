"""``fisher-information``: how much a model's answers on a task depend on each of its entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Driver, DriverContext, Granularity, Ids, Measured, Op, OpParams, Port, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.per_sample import squared_gradients, squared_gradients_bytes
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.task_models import TaskModel


class FisherInformationParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    task: str = Field(description="The suite's task; '{item}' stands for that of the model.", min_length=1)
    split: Literal["train", "val"] = Field("val", description="Which data; labels are not used.")
    rows: int = Field(256, description="How many samples: the first ones, in the split's order.", gt=0)


class FisherInformation(Op[FisherInformationParams]):
    """Takes the exact expectation over the model's own class probabilities, sample by sample; heads stay frozen."""

    name = "fisher-information"
    formula = "mean_x sum_c p_c (d log p_c / d theta)^2,  p_c = p(c | x, theta)"
    source = "Matena and Raffel, arXiv 2111.09832; mmatena/model_merging, fisher.py (_compute_exact_fisher_for_batch)"
    gives = EdgeType.STATISTICS
    inputs = {"model": Port(EdgeType.WEIGHTS, followed=True)}
    granularity = Granularity.MODEL
    untuned = frozenset({"split"})
    Params = FisherInformationParams

    def suite_of(self, params: FisherInformationParams, inputs: Ids) -> SuiteUse:
        return SuiteUse(params.suite, params.split, (params.task,))

    def schema(
        self, params: FisherInformationParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext
    ) -> Schema:
        (model,) = inputs["model"]
        floating = {name: spec for name, spec in model.tensors.items() if spec.is_floating}
        aliases = {alias: name for alias, name in model.aliases.items() if name in floating}
        return Schema(floating, model.names, aliases=aliases, origin=model.origin, sizes=model.sizes, partial=True)

    def driver_bytes(self, params: FisherInformationParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        (model,) = inputs["model"]
        numel, largest = sum(model.numels.values()), max(model.numels.values(), default=0)
        return 2 * model.state_bytes + squared_gradients_bytes(numel, largest, params.rows)

    def driver_of(self, params: FisherInformationParams) -> Driver:
        def measure(inputs: Ids, context: DriverContext) -> Variant:
            suite = context.suite(params.suite)
            (model,) = inputs["model"]
            measured = Measured(suite.digest(params.split), lambda: _information(params, model, context))
            return Variant(self, params, inputs, measured)

        return measure

    def explain(
        self, params: FisherInformationParams, value: PlannedValue, stats: Mapping[str, float] | None
    ) -> OpExplanation:
        line = f"measured on {params.rows} samples of {params.task} ({params.split}), before the first pass"
        return OpExplanation((line,), {"task": params.task, "split": params.split, "rows": params.rows})


def _information(params: FisherInformationParams, step: str, context: DriverContext) -> dict[str, torch.Tensor]:
    """The information of every floating-point tensor, by all of its names; zero where it is no parameter."""
    state = context.materialise(step)
    task = TaskModel.of(context.suite(params.suite), params.task, state, context.device)
    total: dict[str, torch.Tensor] = {}
    count = 0
    for inputs in task.inputs(context.suite(params.suite), params.split, params.rows):
        count += len(inputs)
        for name, value in squared_gradients(task.logits, task.parameters, inputs).items():
            total[name] = total[name] + value if name in total else value
    known = {name: total[parameter] / count for name, parameter in task.names.items()}
    floating = {name: value for name, value in state.items() if value.is_floating_point()}
    return {name: known.get(name, torch.zeros_like(value)) for name, value in floating.items()}
