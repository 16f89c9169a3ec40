"""What the spectral methods have in common: which tensors they decompose, and what they do with all others."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal, Never

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port, Values
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.kernels import Value, running_sum, whole


class SpectralParams(OpParams):
    matrices: tuple[str, ...] | None = Field(
        None, description="Globs of the 2-D tensors to decompose; default all but text_projection.", strict=False
    )
    others: Literal["mean", "base"] = Field(
        "mean", description="All other tensors: the mean of the task vectors, or no update."
    )

    def decomposes(self, tensor: TensorSpec) -> bool:
        """Return whether the tensor is one of the matrices."""
        if len(tensor.shape) != 2 or not tensor.numel:
            return False
        if self.matrices is None:
            return "text_projection" not in tensor.name
        return any(fnmatchcase(tensor.name, glob) for glob in self.matrices)


class SpectralOp(Op[SpectralParams]):
    """A method that decomposes matrices, one at a time and whole; vectors and other shapes stream in blocks."""

    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    granularity = Granularity.TENSOR
    Params = SpectralParams

    def wants_whole(self, params: SpectralParams, tensor: TensorSpec) -> bool:
        return params.decomposes(tensor)

    def apply(self, params: SpectralParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        deltas = inputs["deltas"]
        if params.decomposes(tensor):
            matrices = (whole(delta, tensor) for delta in deltas)
            return self.merge(params, matrices, tensor, len(deltas)).reshape(-1)
        if params.others == "base":
            return deltas[0] * 0.0
        return running_sum(deltas) / len(deltas)

    def rank(self, tensor: TensorSpec, count: int) -> int:
        """Return how many directions of each of ``count`` task vectors' matrices are kept; all by default."""
        return min(tensor.shape)

    def explain(
        self, params: SpectralParams, value: PlannedValue, stats: Mapping[str, Never] | None
    ) -> OpExplanation | None:
        count = value.counts["deltas"]
        matrices = [spec for spec in value.schema.tensors.values() if spec.is_floating and params.decomposes(spec)]
        ranks = Counter((self.rank(matrix, count), min(matrix.shape)) for matrix in matrices)
        share = sum(matrix.numel for matrix in matrices) / max(sum(value.schema.numels.values()), 1)
        shapes = sorted({matrix.shape for matrix in matrices}, key=math.prod)
        largest = f", the largest {' x '.join(map(str, shapes[-1]))}" if shapes else ""
        return OpExplanation(
            (
                f"decomposes {len(matrices)} matrices of {count} task vectors, {share:.1%} of the parameters{largest}",
                *(f"rank {kept} of {full}: {found} matrices" for (kept, full), found in sorted(ranks.items())),
            ),
            {"matrices": len(matrices), "ranks": {matrix.name: self.rank(matrix, count) for matrix in matrices}},
        )

    @abstractmethod
    def merge(
        self, params: SpectralParams, matrices: Iterable[torch.Tensor], tensor: TensorSpec, count: int
    ) -> torch.Tensor:
        """Return the merged matrix of ``count`` task vectors' matrices, which come one after the other."""
