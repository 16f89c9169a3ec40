"""``evaluate``: how good a model, or an ensemble of models, is on the tasks of a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from lines_pipeline.core.types import EdgeType, Split
from lines_pipeline.ops.base import Granularity, Ids, Op, OpParams, Port
from lines_pipeline.ops.drivers import Driver, Evaluated
from lines_pipeline.ops.roles import Combination, SuiteUse
from lines_pipeline.ops.sample_parts import SamplePart
from lines_pipeline.ops.schemas.schema import Schema

_BASELINE_PORTS: Mapping[str, str] = {"expert": "baselines.expert", "pretrained": "baselines.pretrained"}
"""The ports of the metrics that normalize, by role; a recipe writes ``baselines: {expert: ..., pretrained: ...}``."""


def evaluation_bytes(model: Schema) -> int:
    """Return the memory in which a suite judges a model: the stored tensors, these in float32, and its module."""
    stored = sum(spec.nbytes for spec in model.tensors.values() if spec.is_floating and spec.dtype != "float32")
    return stored + 2 * model.state_bytes


class EvaluateParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    split: Split = Field("test", description="Which data; ood: data of another kind than those of training.")
    tasks: tuple[str, ...] | None = Field(None, description="Some of the suite's tasks; default all.", strict=False)
    target: str | None = Field(None, description="The task a single model was tuned for; the others are its control.")
    subset: int | None = Field(None, description="The first samples of each task, so many; default all.", gt=0)
    combine: Combination = Field("probabilities", description="Of `models`: what is averaged over them.")


class Evaluate(Op[EvaluateParams]):
    """Gives the metrics that the suite declares; ``baselines`` normalize them, or else what the suite records.

    Several ``models`` are one ensemble: the mean of their class probabilities, or logits, is judged as one model's.
    """

    name = "evaluate"
    formula = "<metric>/<task>, mean_<metric>, worst_<metric>, normalized_<metric>/<task>, mean_normalized_<metric>"
    source = "wang-kee/LiNeS, src/eval/eval.py"
    gives = EdgeType.METRICS
    is_output = True
    inputs = {
        "model": Port(EdgeType.WEIGHTS, optional=True, followed=True),
        "models": Port(EdgeType.WEIGHTS, many=True, optional=True, followed=True),
        **{port: Port(EdgeType.METRICS, many=True, optional=True) for port in _BASELINE_PORTS.values()},
    }
    granularity = Granularity.MODEL
    Params = EvaluateParams

    def check(self, params: EvaluateParams, counts: Mapping[str, int]) -> str | None:
        if bool(counts["model"]) == bool(counts["models"]):
            given = "both" if counts["model"] else "neither"
            return f"expected 'model', or 'models' to be judged as one ensemble; found {given}"
        if counts["model"] and "combine" in params.model_fields_set:
            return "'combine' is for 'models': one model has nothing to average"
        return None

    def driver_bytes(self, params: EvaluateParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        return max(map(evaluation_bytes, [*inputs.get("model", ()), *inputs.get("models", ())]))

    def suite_of(self, params: EvaluateParams, inputs: Ids) -> SuiteUse:
        baselines = {role: inputs[port] for role, port in _BASELINE_PORTS.items() if port in inputs}
        models = inputs["models"] if "models" in inputs else inputs["model"]
        return SuiteUse(
            params.suite,
            params.split,
            params.tasks,
            params.target,
            models,
            params.combine,
            baselines=baselines,
            part=SamplePart(first=params.subset) if params.subset else None,
        )

    def driver_of(self, params: EvaluateParams) -> Driver:
        return lambda inputs, context: Evaluated(self.suite_of(params, inputs))
