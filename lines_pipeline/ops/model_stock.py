"""``model-stock``: go from the base towards the mean of models, as far as these agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, OpParams, Port, Values
from lines_pipeline.ops.kernels import Block, Value, running_sum
from lines_pipeline.ops.spheres import SphereOp
from lines_pipeline.ops.statistics.gram import Gram, Grams

SMALLEST_PRODUCT = 1e-6
"""Products of norms are at least this: without updates the cosine is 0, and the result is the base."""
NO_REST = 1e-6
"""Of 1 + (N - 1) c: as much counts as nothing."""


class ModelStockParams(OpParams):
    filter_wise: bool = Field(False, description="An angle for each row (last axis) in place of one a tensor.")


class ModelStock(SphereOp[ModelStockParams]):
    """Takes the share of the mean that the angle between task vectors suggests, tensor by tensor.

    The paper has two models; for more, the cosines of all pairs are averaged, as the source does. Differs from the
    source where directions cancel out, c = -1 / (N - 1): no share is left, and the result is the base. Where they
    nearly do, the share is far below 0.
    """

    name = "model-stock"
    formula = "theta_0 + t mean_i(theta_i - theta_0),  t = N c / (1 + (N - 1) c), c the mean cosine of pairs"
    source = "Jang et al., arXiv 2403.19522; arcee-ai/mergekit, mergekit/merge_methods/model_stock.py"
    inputs = {"base": Port(EdgeType.WEIGHTS, followed=True), "models": Port(EdgeType.WEIGHTS, many=True, min_count=2)}
    granularity = Granularity.TENSOR
    Params = ModelStockParams

    def breaks_pipeline(self, params: ModelStockParams) -> bool:
        return params.filter_wise

    def wants_whole(self, params: ModelStockParams, tensor: TensorSpec) -> bool:
        return params.filter_wise and len(tensor.shape) > 1

    def working_bytes(self, params: ModelStockParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 8 * tensor.numel * (counts["models"] + 4)

    def apply(self, params: ModelStockParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Grams]) -> Value:
        base: Block = inputs["base"][0]
        models: Sequence[Block] = inputs["models"]
        if self.wants_whole(params, tensor):
            updates = [model - base for model in models]
            rows = [update.reshape(-1, tensor.shape[-1]) for update in updates]
            mean: Block = running_sum(rows) / len(models)
            moved: Value = base + (mean * _row_shares(rows)).reshape(-1)
            return moved
        mean = running_sum([model - base for model in models]) / len(models)
        result: Value = base + mean * _share(_mean_cosine(stats["grams"][tensor.name]), len(models))
        return result


def _share(cosine: float, count: int) -> float:
    """Return how much of the mean to take."""
    divisor = 1.0 + (count - 1) * cosine
    return count * cosine / divisor if divisor > NO_REST else 0.0


def _mean_cosine(gram: Gram) -> float:
    pairs = list(itertools.combinations(range(len(gram)), 2))
    cosines = (gram[i][j] / max(math.sqrt(gram[i][i] * gram[j][j]), SMALLEST_PRODUCT) for i, j in pairs)
    return math.fsum(min(max(cosine, -1.0), 1.0) for cosine in cosines) / len(pairs)


def _row_shares(rows: list[torch.Tensor]) -> torch.Tensor:
    """Return the share of each row, as a column."""
    norms = [row.norm(dim=-1) for row in rows]
    cosines = [
        ((rows[i] * rows[j]).sum(dim=-1) / (norms[i] * norms[j]).clamp(min=SMALLEST_PRODUCT)).clamp(-1, 1)
        for i, j in itertools.combinations(range(len(rows)), 2)
    ]
    cosine = torch.stack(cosines).mean(dim=0)
    divisor = 1.0 + (len(rows) - 1) * cosine
    share = len(rows) * cosine / divisor
    return torch.where(divisor > NO_REST, share, torch.zeros_like(share)).unsqueeze(-1)
