"""What the spectral methods have in common: which tensors they take as matrices, and what they do with all others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value, running_sum


class MatrixParams(OpParams):
    """Which tensors are matrices: all that are 2-D, or those of them that ``matrices`` names."""

    matrices: tuple[str, ...] | None = Field(
        None, description="Globs of the 2-D tensors to decompose; default all.", strict=False
    )

    def decomposes(self, tensor: TensorSpec) -> bool:
        """Return whether the tensor is one of the matrices."""
        if len(tensor.shape) != 2 or not tensor.numel:
            return False
        if self.matrices is None:
            return self.by_default(tensor.name)
        return any(fnmatchcase(tensor.name, glob) for glob in self.matrices)

    def by_default(self, name: str) -> bool:
        """Return whether a 2-D tensor of this name is a matrix where ``matrices`` is left open."""
        return True


class SpectralParams(MatrixParams):
    matrices: tuple[str, ...] | None = Field(
        None, description="Globs of the 2-D tensors to decompose; default all but text_projection.", strict=False
    )
    others: Literal["mean", "base"] = Field(
        "mean", description="All other tensors: the mean of the task vectors, or no update."
    )

    def by_default(self, name: str) -> bool:
        return "text_projection" not in name


class Matrices(Sequence[torch.Tensor]):
    """The values of a port on a matrix, each in the matrix's shape.

    Each is computed when it is taken, and not kept: ``total += matrices[i]`` holds one of them, a loop variable two.
    """

    def __init__(self, values: Sequence[Value], shape: tuple[int, ...]) -> None:
        self._values, self._shape = values, shape

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index].reshape(self._shape)

    def sum(self) -> torch.Tensor:
        """Return the sum from the first to the last, a tensor of its own."""
        total: torch.Tensor = self[0].clone()
        for index in range(1, len(self)):
            total += self[index]
        return total


class SpectralOp(Op):
    """A method that merges matrices one at a time and whole; vectors and other shapes stream in blocks."""

    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    granularity = Granularity.TENSOR
    Params = SpectralParams

    def wants_whole(self, params: SpectralParams, tensor: TensorSpec) -> bool:
        return params.decomposes(tensor)

    def apply(self, params: SpectralParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        deltas = inputs["deltas"]
        if params.decomposes(tensor):
            return self.merge(params, Matrices(deltas, tensor.shape), tensor).reshape(-1)
        if params.others == "base":
            return deltas[0] * 0.0
        return running_sum(deltas) / len(deltas)

    @abstractmethod
    def merge(self, params: Any, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        """Return the merged matrix of the task vectors' matrices."""
