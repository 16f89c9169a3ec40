"""``soup``: the mean of models, all of them or those that a greedy search keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value, running_sum


class SoupParams(OpParams):
    kind: Literal["uniform", "greedy"] = Field("uniform", description="All models, or those that help when added.")
    suite: str | None = Field(None, description="greedy: the suite that judges.")
    split: Literal["train", "val", "test"] = Field("val", description="greedy: the split that judges.")
    tasks: tuple[str, ...] | None = Field(None, description="greedy: the tasks that judge; default all.", strict=False)
    objective: str = Field("mean_accuracy", description="greedy: the metric that must not fall.")


class Soup(Op):
    """A greedy soup is found by ``search/greedy_soup.py``, then made here as the uniform soup of what it kept."""

    name = "soup"
    formula = "(1 / N) sum_i theta_i"
    source = "Wortsman et al., arXiv 2203.05482; mlfoundations/model-soups, main.py"
    gives = EdgeType.WEIGHTS
    inputs = {"models": Port(EdgeType.WEIGHTS, many=True)}
    Params = SoupParams

    def check(self, params: SoupParams, counts: Mapping[str, int]) -> str | None:
        if params.kind == "greedy" and params.suite is None:
            return "a greedy soup needs 'suite'"
        if params.kind == "greedy" and params.split == "test":
            return "a greedy soup chosen on the test split would overstate its accuracy: use 'split: val'"
        return None

    def apply(self, params: SoupParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        return running_sum(inputs["models"]) / len(inputs["models"])
