"""``evaluate``: the accuracy of a model on the tasks of a suite."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port


class EvaluateParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    split: Literal["train", "val", "test"] = Field("test", description="Which images.")
    tasks: tuple[str, ...] | None = Field(None, description="Some of the suite's tasks; default all.", strict=False)
    target: str | None = Field(None, description="The task a single model was tuned for; the others are its control.")


class Evaluate(Op):
    """Normalized accuracy is over the task's own expert, as the suite records it."""

    name = "evaluate"
    formula = "accuracy/<task>, mean_accuracy, normalized_accuracy/<task>, mean_normalized_accuracy"
    source = "wang-kee/LiNeS, src/eval/eval.py"
    gives = EdgeType.METRICS
    inputs = {"model": Port(EdgeType.WEIGHTS)}
    granularity = Granularity.MODEL
    Params = EvaluateParams
