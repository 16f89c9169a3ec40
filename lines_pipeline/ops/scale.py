"""``scale``: multiply a task vector by a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.statistics.norms import SumNorm


class ScaleParams(OpParams):
    by: float | Literal["auto"] = Field(
        description="The factor, negative to forget; auto gives 'delta' the L1 norm of 'like'."
    )


class Scale(Op[ScaleParams, float]):
    """Uniform scaling: the control against which LiNeS is compared, with ``by: auto`` at the same total update."""

    name = "scale"
    formula = "by * tau;  auto: norm1(like) / norm1(tau) * tau"
    source = "Ilharco et al., arXiv 2212.04089"
    gives = EdgeType.DELTA
    inputs = {
        "delta": Port(EdgeType.DELTA, followed=True),
        "like": Port(EdgeType.DELTA, optional=True, statistics_only=True),
    }
    Params = ScaleParams

    def check(self, params: ScaleParams, counts: Mapping[str, int]) -> str | None:
        if (params.by == "auto") != bool(counts["like"]):
            return "'by: auto' and 'like', the update whose norm is wanted, go together"
        return None

    def statistics(self, params: ScaleParams, inputs: Ids, step: str) -> dict[str, SumNorm]:
        if params.by != "auto":
            return {}
        return {"norm": SumNorm(inputs["delta"]), "norm_like": SumNorm(inputs["like"])}

    def apply(self, params: ScaleParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, float]) -> Value:
        return inputs["delta"][0] * self._factor(params, stats)

    def summary(
        self, params: ScaleParams, stats: Mapping[str, float], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        return {"by": self._factor(params, stats)} if params.by == "auto" else {}

    def shown_figures(self, params: ScaleParams) -> tuple[str, ...]:
        return ("by",) if params.by == "auto" else ()

    @staticmethod
    def _factor(params: ScaleParams, stats: Mapping[str, float]) -> float:
        """Return the factor; 1 where an update of norm 0 cannot get another norm."""
        if params.by != "auto":
            return params.by
        return stats["norm_like"] / stats["norm"] if stats["norm"] else 1.0
