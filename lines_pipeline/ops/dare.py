"""``dare``: drop entries at random, and enlarge the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.base import Ids, Values
from lines_pipeline.ops.draws import Draw, DrawingOp, DrawParams, uniforms
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.statistics.contract import Needs
from lines_pipeline.ops.statistics.norms import DroppingNorms, Norms, rescaled


def dropped_out(delta: Value, numbers: Value, density: float) -> Value:
    """Return ``delta`` where its number is below ``density``, and zero elsewhere."""
    return delta - delta * (numbers >= density)


@dataclass(frozen=True)
class KeptNorms(DroppingNorms):
    """Measures the L1 norm of each tensor before entries are dropped, and after."""

    density: float
    seed: int | None
    expert: str

    def kept(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, position: int) -> Value:
        delta, *given = values
        numbers = uniforms(Draw(self.seed, self.expert), given, tensor, position, delta)
        return dropped_out(delta, numbers, self.density)


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

    def apply_at(
        self, params: DrawParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Norms], position: int
    ) -> Value:
        delta, density = inputs["delta"][0], params.density[0]
        if density in (0.0, 1.0):
            return delta if density else delta * 0.0
        kept = dropped_out(delta, uniforms(params, inputs["uniforms"], tensor, position, delta), density)
        return rescaled(kept, params.rescale, density, stats.get("norms", {}).get(tensor.name))
