"""What ops have in common that measure a model on the inputs of a task: Fisher information, inputs of layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Ids, Op, OpParams, Port
from lines_pipeline.ops.drivers import Driver, DriverContext, Measured, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.roles import SuiteUse


class TaskParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    task: str = Field(
        description="The suite's task; a name of for_each ('{task}') gives that of the model.", min_length=1
    )
    split: Literal["train", "val"] = Field("val", description="Which data; labels are not used.")
    rows: int = Field(256, description="How many samples: the first ones, in the split's order.", gt=0)


class TaskStatistics(Op[TaskParams]):
    """Measures statistics of a model before anything is merged; they are remembered by model, data and parameters."""

    gives = EdgeType.STATISTICS
    inputs = {"model": Port(EdgeType.WEIGHTS, followed=True)}
    granularity = Granularity.MODEL
    untuned = frozenset({"split"})
    Params = TaskParams
    tells_tensors: ClassVar[bool] = False
    """Whether only what is measured tells which tensors there are."""

    @abstractmethod
    def measure(self, params: TaskParams, step: str, context: DriverContext) -> dict[str, torch.Tensor]:
        """Return the statistics of the model that a step gives, by name."""

    def suite_of(self, params: TaskParams, inputs: Ids) -> SuiteUse:
        return SuiteUse(params.suite, params.split, (params.task,))

    def driver_of(self, params: TaskParams) -> Driver:
        def find(inputs: Ids, context: DriverContext) -> Variant:
            (model,) = inputs["model"]
            digest = context.suite(params.suite).digest(params.split)
            measured = Measured(digest, lambda: self.measure(params, model, context), tells_tensors=self.tells_tensors)
            return Variant(self, params, inputs, measured)

        return find

    def explain(self, params: TaskParams, value: PlannedValue, stats: Mapping[str, float] | None) -> OpExplanation:
        line = f"measured on {params.rows} samples of {params.task} ({params.split}), before the first pass"
        return OpExplanation((line,), {"task": params.task, "split": params.split, "rows": params.rows})
