"""``soup``: the mean of models, all of them or those that a greedy search keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Never

from pydantic import Field

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import TableComputed
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Values
from lines_pipeline.ops.drivers import Driver, DriverContext, Variant
from lines_pipeline.ops.evaluate import evaluation_bytes
from lines_pipeline.ops.kernels import Value, running_sum
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.ops.schemas.schema import Schema


class SoupParams(OpParams):
    kind: Literal["uniform", "greedy"] = Field("uniform", description="All models, or those that help when added.")
    suite: str | None = Field(None, description="greedy: the suite that judges.")
    split: Literal["train", "val", "test"] = Field("val", description="greedy: the split that judges.")
    tasks: tuple[str, ...] | None = Field(None, description="greedy: the tasks that judge; default all.", strict=False)
    objective: str = Field("mean_accuracy", description="greedy: the metric that must not get worse.")


class Soup(Op[SoupParams]):
    """A greedy soup is found by trying every model in turn, then made as the uniform soup of what it kept."""

    name = "soup"
    formula = "(1 / N) sum_i theta_i"
    source = "Wortsman et al., arXiv 2203.05482; mlfoundations/model-soups, main.py"
    gives = EdgeType.WEIGHTS
    inputs = {"models": Port(EdgeType.WEIGHTS, many=True, followed=True)}
    untuned = frozenset({"split"})
    Params = SoupParams

    def check(self, params: SoupParams, counts: Mapping[str, int]) -> str | None:
        if params.kind == "greedy" and params.suite is None:
            return "a greedy soup needs 'suite'"
        if params.kind == "greedy" and params.split == "test":
            return "a greedy soup chosen on the test split would overstate its accuracy: use 'split: val'"
        return None

    def suite_of(self, params: SoupParams, inputs: Ids) -> SuiteUse | None:
        return None if params.suite is None else _evaluated(params)

    def driver_of(self, params: SoupParams) -> Driver | None:
        if params.kind == "uniform":
            return None
        return lambda inputs, context: self._uniform(self._choose(params, inputs["models"], context))

    def driver_bytes(self, params: SoupParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        return 0 if params.kind == "uniform" else evaluation_bytes(inputs["models"][0])

    def apply(self, params: SoupParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        return running_sum(inputs["models"]) / len(inputs["models"])

    def _uniform(self, models: tuple[str, ...]) -> Variant:
        return Variant(self, SoupParams(), {"models": models})

    def _choose(self, params: SoupParams, models: tuple[str, ...], context: DriverContext) -> tuple[str, ...]:
        """Sort by the held-out metric, then keep each candidate that does not make the soup's worse."""
        scores = self._scores(params, {model: (model,) for model in models}, context)
        sign = 1 if context.higher_is_better(params.objective) else -1
        order = sorted(models, key=lambda model: -sign * scores[model])
        kept, best = order[:1], scores[order[0]]
        rows = [{"model": order[0], "alone": best, "soup": best, "kept": True}]
        for candidate in order[1:]:
            score = self._scores(params, {candidate: (*kept, candidate)}, context)[candidate]
            if sign * score >= sign * best:
                kept, best = [*kept, candidate], score
            rows.append({"model": candidate, "alone": scores[candidate], "soup": score, "kept": candidate in kept})
        context.emit(TableComputed(f"greedy_soup/{context.step}", tuple(rows)))
        return tuple(kept)

    def _scores(
        self, params: SoupParams, soups: Mapping[str, tuple[str, ...]], context: DriverContext
    ) -> dict[str, float]:
        """Return the metric of the uniform soup of each entry's models."""
        variants = {name: self._uniform(models) for name, models in soups.items()}
        scores = context.evaluate(variants, _evaluated(params))
        if any(params.objective not in metrics for metrics in scores.values()):
            known = ", ".join(next(iter(scores.values())))
            raise EvalError(f"node '{context.node}': no metric '{params.objective}'; the suite gives: {known}")
        return {name: metrics[params.objective] for name, metrics in scores.items()}


def _evaluated(params: SoupParams) -> SuiteUse:
    """Return the part of the suite that judges soups."""
    assert params.suite is not None
    return SuiteUse(params.suite, params.split, params.tasks, objective=params.objective)
