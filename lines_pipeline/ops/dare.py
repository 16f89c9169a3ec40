"""``dare``: drop entries at random, and enlarge the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.base import Ids, Statistic, Values
from lines_pipeline.ops.draws import Draw, DrawingOp, DrawParams, uniforms
from lines_pipeline.ops.kernels import Value, total
from lines_pipeline.ops.statistics.contract import Reductions
from lines_pipeline.ops.statistics.norms import Norms, restoring, tensor_totals


def dropped_out(delta: Value, numbers: Value, density: float) -> Value:
    """Return ``delta`` where its number is below ``density``, and zero elsewhere."""
    return delta - delta * (numbers >= density)


@dataclass(frozen=True)
class KeptNorms(Statistic[tuple[float, float], Norms]):
    """By tensor: the L1 norm before entries are dropped, and after."""

    density: float
    seed: int | None
    expert: str

    def observe_at(
        self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: None, position: int
    ) -> Reductions:
        delta, *given = values
        numbers = uniforms(Draw(self.seed, self.expert), given, tensor, position, delta)
        kept = dropped_out(delta, numbers, self.density)
        return total(delta.abs()), total(kept.abs())

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: None) -> Reductions:
        return self.observe_at(values, tensor, needs, state, 0)

    def partial(self, *reduced: Any) -> tuple[float, float]:
        return reduced[0], reduced[1]

    def combine(
        self, partials: Mapping[str, list[tuple[float, float]]], numels: Mapping[str, int], state: None
    ) -> Norms:
        return tensor_totals(partials)


class Dare(DrawingOp[DrawParams, Norms]):
    """Keeps each entry with probability ``density`` and divides it by that, so that the expectation stays.

    ``rescale: l1`` is mergekit's: each tensor gets its L1 norm back, and the expectation does not stay. Differs from
    the sources in its random numbers, which depend on seed, item and tensor alone.
    """

    name = "dare"
    formula = "tau_i / p with probability p, else 0"
    source = "Yu et al., arXiv 2311.03099; arcee-ai/mergekit, mergekit/sparsify.py (bernoulli)"
    Params = DrawParams

    def statistics(self, params: DrawParams, inputs: Ids, step: str) -> dict[str, KeptNorms]:
        if params.rescale != "l1" or params.density[0] in (0.0, 1.0):
            return {}
        of = (*inputs["delta"], *inputs.get("uniforms", ()))
        return {"norms": KeptNorms(of, params.density[0], params.seed, params.expert)}

    def apply(self, params: DrawParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Norms]) -> Value:
        return self.apply_at(params, inputs, tensor, stats, 0)

    def apply_at(
        self, params: DrawParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Norms], position: int
    ) -> Value:
        delta, density = inputs["delta"][0], params.density[0]
        if density in (0.0, 1.0):
            return delta if density else delta * 0.0
        kept = dropped_out(delta, uniforms(params, inputs["uniforms"], tensor, position, delta), density)
        if params.rescale == "none":
            return kept
        return kept / density if params.rescale == "density" else kept * restoring(stats["norms"][tensor.name])
