"""``fisher``: the mean of models, each entry weighted by how much the answers of its model depend on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.kernels import Value, running_sum
from lines_pipeline.ops.schemas.measured import like_base_measured
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.shares import wrong_shares
from lines_pipeline.ops.statistics.contract import StatisticOf
from lines_pipeline.ops.statistics.norms import Norm


class FisherParams(OpParams):
    weights: tuple[float, ...] = Field((1.0,), description="Factor of each model: number, list or map by item.")
    floor: float = Field(1e-6, description="The least Fisher information that an entry counts with.", ge=0)
    floor_on: Literal["first", "all"] = Field("first", description="Whose Fisher information has the floor.")
    floor_kind: Literal["max", "add"] = Field("max", description="max(F, floor), or F + floor.")
    normalize: bool = Field(True, description="Divide each F by its norm over the whole model.")


class Fisher(Op[FisherParams, float]):
    """Entries that no model's answers depend on take the first model's value, under ``floor_on: all`` the mean."""

    name = "fisher"
    formula = "sum_t c_t F_t theta_t / sum_t c_t F_t,  c_t = w_t / ||F_t||_2,  F_1 at least floor"
    source = "Matena and Raffel, arXiv 2111.09832; mmatena/model_merging, merging.py (_merge_with_coeffs)"
    gives = EdgeType.WEIGHTS
    inputs = {
        "models": Port(EdgeType.WEIGHTS, many=True, followed=True),
        "statistics": Port(EdgeType.STATISTICS, many=True),
    }
    per_item = {"weights": "models"}
    Params = FisherParams

    def check(self, params: FisherParams, counts: Mapping[str, int]) -> str | None:
        if counts["models"] != counts["statistics"]:
            return f"needs one of 'statistics' a model, got {counts['statistics']} for {counts['models']}"
        return wrong_shares(params.weights)

    def schema(self, params: FisherParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return like_base_measured(context, inputs["models"], inputs["statistics"])

    def statistics(self, params: FisherParams, inputs: Ids, step: str) -> Mapping[str, StatisticOf[float]]:
        if not params.normalize:
            return {}
        return {_norm(number): Norm((source,)) for number, source in enumerate(inputs["statistics"])}

    def apply(self, params: FisherParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, float]) -> Value:
        coefficients = _coefficients(params, stats)
        information = [
            _floored(params, value, number) * coefficient
            for number, (value, coefficient) in enumerate(zip(inputs["statistics"], coefficients, strict=True))
        ]
        models = inputs["models"]
        weighted = running_sum([value * model for value, model in zip(information, models, strict=True)])
        total = running_sum(information)
        if params.floor > 0 and (params.floor_on == "all" or coefficients[0] > 0):
            return weighted / total
        unknown = total.sign() * -1.0 + 1.0  # 1 where nothing tells the models apart: there it is their mean
        return (weighted + unknown * (running_sum(models) / len(models))) / (total + unknown)

    def summary(
        self, params: FisherParams, stats: Mapping[str, float], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        return {"fisher_norms": [stats[_norm(number)] for number in range(len(stats))]} if stats else {}


def _norm(number: int) -> str:
    return f"norm_{number}"


def _coefficients(params: FisherParams, stats: Mapping[str, float]) -> list[float]:
    """Return the factor of each F: a weight over a norm, where an F of zeros counts as one of norm 1."""
    if not params.normalize:
        return list(params.weights)
    norms = [stats[_norm(number)] for number in range(len(params.weights))]
    if params.floor_kind == "add":
        shares = [weight / ((norm + params.floor) or 1.0) for weight, norm in zip(params.weights, norms, strict=True)]
        return [share / sum(shares) for share in shares]
    return [weight / (norm or 1.0) for weight, norm in zip(params.weights, norms, strict=True)]


def _floored(params: FisherParams, value: Value, number: int) -> Value:
    if params.floor == 0 or (params.floor_on == "first" and number > 0):
        return value
    return value.clamp(min=params.floor) if params.floor_kind == "max" else value + params.floor
