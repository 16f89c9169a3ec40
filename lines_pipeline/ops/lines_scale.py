"""``lines-scale``: scale the update of each block linearly with its depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.depth import Position, explain_blocks, pattern_mistakes
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.roles import Mistake
from lines_pipeline.ops.statistics.norms import SumNorm


class LinesScaleParams(OpParams):
    alpha: float | Literal["auto"] | None = Field(None, description="Scale of the first block and of what is in none.")
    beta: float = Field(0.0, description="What the last block has on top of alpha.")
    gamma: float | None = Field(None, description="Short for alpha = gamma, beta = 1 - gamma.", ge=0, le=1)
    blocks: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        "auto", description="Layer map: auto, or a regex with a group for the block's index, or a list, one a tower."
    )
    schedule: Literal["linear"] = Field("linear", description="How the scale grows from block to block.")

    @property
    def slope(self) -> float:
        """Beta, or what ``gamma`` makes of it."""
        return self.beta if self.gamma is None else 1.0 - self.gamma


class LinesScale(Op[LinesScaleParams, float]):
    """``alpha: auto`` is norm1(sum of ``deltas``) / norm1(``delta``) / N, and 1/N where the merged norm is 0.

    It is 1/N too where ``delta`` is that sum itself: then no norm has to be known before the result.
    """

    name = "lines-scale"
    formula = "lambda(l) * tau,  lambda(l) = alpha + beta * l / (L - 1),  l = 0..L-1;  alpha outside the blocks"
    source = "Wang et al., arXiv 2410.17146; wang-kee/LiNeS, src/eval/eval.py (LiNeS_scaling)"
    gives = EdgeType.DELTA
    inputs = {
        "delta": Port(EdgeType.DELTA, followed=True, from_sum=True),
        "deltas": Port(EdgeType.DELTA, many=True, optional=True, statistics_only=True),
    }
    Params = LinesScaleParams

    def check(self, params: LinesScaleParams, counts: Mapping[str, int]) -> str | None:
        if params.gamma is not None:
            clash = params.alpha is not None or params.beta != 0.0
            return "give either 'gamma' or 'alpha' and 'beta', not both" if clash else None
        if params.alpha is None:
            return "needs 'alpha' (a number or auto) and 'beta', or 'gamma'"
        if params.alpha == "auto" and not counts["deltas"]:
            return "'alpha: auto' needs 'deltas', the task vectors that were merged"
        return None

    def mistakes(self, params: LinesScaleParams, inputs: Ids, gives: EdgeType) -> Iterable[Mistake]:
        return pattern_mistakes(params.blocks, "blocks")

    def statistics(self, params: LinesScaleParams, inputs: Ids, step: str) -> dict[str, SumNorm]:
        if params.alpha != "auto":
            return {}
        needless = inputs["delta"] == inputs["deltas"]
        of = {"norm_mtv": inputs["delta"], "norm_summed_tvs": inputs["deltas"]}
        return {name: SumNorm(steps, optional=needless) for name, steps in of.items()}

    def layer_pattern(self, params: LinesScaleParams) -> str | tuple[str, ...]:
        return params.blocks

    def bind_tensor(
        self,
        params: LinesScaleParams,
        stats: Mapping[str, float],
        place: Position | None,
        counts: Mapping[str, int],
    ) -> dict[str, float]:
        alpha = _alpha(params, stats, counts["deltas"])
        return {"scale": alpha if place is None else _scale(alpha, params, place)}

    def apply(self, params: LinesScaleParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, float]) -> Value:
        return inputs["delta"][0] * stats["scale"]

    def summary(
        self, params: LinesScaleParams, stats: Mapping[str, float], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        experts = {"num_experts": counts["deltas"]} if params.alpha == "auto" else {}
        return {**stats, **experts, "alpha": _alpha(params, stats, counts["deltas"])}

    def explain(
        self, params: LinesScaleParams, value: PlannedValue, stats: Mapping[str, float] | None
    ) -> OpExplanation | None:
        assert value.layers is not None
        if stats is None:
            return explain_blocks(
                value.layers, "auto", lambda place: f"auto + {params.slope:g} * {place[0]}/{place[1] - 1}", None
            )
        alpha = _alpha(params, stats, value.counts["deltas"])

        def scale(place: Position) -> float:
            return _scale(alpha, params, place)

        return explain_blocks(value.layers, f"{alpha:.6g}", lambda place: f"{scale(place):.6g}", scale)


def _alpha(params: LinesScaleParams, stats: Mapping[str, float], experts: int) -> float:
    """The resolved alpha; ``experts`` is the number of ``deltas``."""
    if params.gamma is not None:
        return params.gamma
    if params.alpha != "auto":
        return params.alpha or 0.0
    merged, summed = stats.get("norm_mtv"), stats.get("norm_summed_tvs")
    return 1.0 / experts if not merged or summed is None or merged == summed else summed / merged / experts


def _scale(alpha: float, params: LinesScaleParams, place: Position) -> float:
    """The scale of a block."""
    return alpha + params.slope * place[0] / (place[1] - 1)
