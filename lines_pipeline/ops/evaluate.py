"""``evaluate``: the accuracy of a model on the tasks of a suite."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Ids, Op, OpParams, Port
from lines_pipeline.ops.roles import SuiteUse


class EvaluateParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    split: Literal["train", "val", "test"] = Field("test", description="Which images.")
    tasks: tuple[str, ...] | None = Field(None, description="Some of the suite's tasks; default all.", strict=False)
    target: str | None = Field(None, description="The task a single model was tuned for; the others are its control.")


class Evaluate(Op[EvaluateParams]):
    """Normalized accuracy is over the task's own expert, as the suite records it."""

    name = "evaluate"
    formula = "accuracy/<task>, mean_accuracy, normalized_accuracy/<task>, mean_normalized_accuracy"
    source = "wang-kee/LiNeS, src/eval/eval.py"
    gives = EdgeType.METRICS
    is_output = True
    inputs = {"model": Port(EdgeType.WEIGHTS, followed=True)}
    granularity = Granularity.MODEL
    Params = EvaluateParams

    def suite_of(self, params: EvaluateParams, inputs: Ids) -> SuiteUse:
        return SuiteUse(params.suite, params.split, params.tasks, params.target, inputs["model"][0])
