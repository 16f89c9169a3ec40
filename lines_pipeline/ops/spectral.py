"""What the spectral methods have in common: which tensors they decompose, and what they do with all others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value, running_sum


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


class SpectralOp(Op):
    """A method that decomposes matrices, one at a time and whole; vectors and other shapes stream in blocks."""

    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    granularity = Granularity.TENSOR
    Params = SpectralParams

    def wants_whole(self, params: SpectralParams, tensor: TensorSpec) -> bool:
        return params.decomposes(tensor)

    def apply(self, params: SpectralParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        deltas = inputs["deltas"]
        if params.decomposes(tensor):
            matrices = (delta.reshape(tensor.shape) for delta in deltas)
            return self.merge(params, matrices, tensor, len(deltas)).reshape(-1)
        if params.others == "base":
            return deltas[0] * 0.0
        return running_sum(deltas) / len(deltas)

    @abstractmethod
    def merge(self, params: Any, matrices: Iterable[torch.Tensor], tensor: TensorSpec, count: int) -> torch.Tensor:
        """Return the merged matrix of ``count`` task vectors' matrices, which come one after the other."""
