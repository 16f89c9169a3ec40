"""What the spectral methods have in common: which tensors they take as matrices, and what they do with all others."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Generic, Literal, Never

import torch
from pydantic import Field
from typing_extensions import TypeVar

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port, Values
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.kernels import Block, Value, running_sum
from lines_pipeline.ops.schemas.globs import match_each
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext

_KERNEL_AXES = 4


class MatrixParams(OpParams):
    """Tells which tensors are matrices: all that are 2-D, and on demand kernels, or those of them that ``matrices``
    names."""

    matrices: tuple[str, ...] | None = Field(
        None, description="Globs of the 2-D tensors to decompose; default all.", strict=False
    )
    convolutions: Literal["others", "matrix"] = Field(
        "others",
        description="Kernels [out, in, h, w]: as all other tensors, or as matrices [out, in * h * w].",
    )

    def decomposes(self, tensor: TensorSpec) -> bool:
        """Return whether the tensor is one of the matrices."""
        if not self._has_sides(tensor) or not tensor.numel:
            return False
        if self.matrices is None:
            return self.by_default(tensor.name)
        return any(fnmatchcase(tensor.name, glob) for glob in self.matrices)

    def by_default(self, name: str) -> bool:
        """Return whether a 2-D tensor of this name is a matrix where ``matrices`` is left open."""
        return True

    def as_matrix(self, tensor: TensorSpec) -> TensorSpec:
        """Return a tensor that is decomposed in the shape in which it is: a kernel as [out, all else]."""
        rows, *columns = tensor.shape
        return replace(tensor, shape=(rows, math.prod(columns)))

    def _has_sides(self, tensor: TensorSpec) -> bool:
        is_kernel = len(tensor.shape) == _KERNEL_AXES
        return len(tensor.shape) == 2 or (is_kernel and self.convolutions == "matrix")

    def named_in(self, schema: Schema) -> Schema:
        """Return a schema that tells which of ``matrices`` match a matrix; those that match none are refused."""
        known = (spec.name for spec in schema.tensors.values() if spec.is_floating and self._has_sides(spec))
        return replace(schema, globs={**schema.globs, **match_each(self.matrices or (), known)})


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

    def __init__(self, values: Sequence[Block], shape: tuple[int, ...]) -> None:
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


SP = TypeVar("SP", bound=SpectralParams, default=SpectralParams)
"""The parameters of a spectral method."""


S = TypeVar("S", default=Never)
"""What the statistics of a method come out as."""


class MatrixOp(Op[SP, S], Generic[SP, S]):
    """A method that merges matrices one at a time and whole; vectors and other shapes stream in blocks."""

    gives = EdgeType.DELTA
    inputs = {"deltas": Port(EdgeType.DELTA, many=True)}
    granularity = Granularity.TENSOR
    Params = SpectralParams

    def schema(self, params: SP, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return params.named_in(super().schema(params, inputs, context))

    def wants_whole(self, params: SP, tensor: TensorSpec) -> bool:
        return params.decomposes(tensor)

    def working_bytes(self, params: SP, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return self.merging_bytes(params, params.as_matrix(tensor), counts)

    def times_taken(self, params: SP, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return self.matrices_taken(params, params.as_matrix(tensor), counts)

    def merging_bytes(self, params: SP, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        """Return ``working_bytes`` of a matrix."""
        return 0

    def matrices_taken(self, params: SP, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        """Return how often ``merge`` takes each matrix."""
        return 1

    def apply(self, params: SP, inputs: Values, tensor: TensorSpec, stats: Mapping[str, S]) -> Value:
        deltas = inputs["deltas"]
        if params.decomposes(tensor):
            matrix = params.as_matrix(tensor)
            merged: Value = self.merge_by(params, Matrices(deltas, matrix.shape), matrix, stats).reshape(-1)
            return merged
        if params.others == "base":
            return deltas[0] * 0.0
        return running_sum(deltas) / len(deltas)

    def rank(self, params: SP, tensor: TensorSpec, count: int) -> int:
        """Return how many directions of each of ``count`` task vectors' matrices are kept; all by default."""
        return min(tensor.shape)

    def explain(self, params: SP, value: PlannedValue, stats: Mapping[str, S] | None) -> OpExplanation | None:
        count = value.counts["deltas"]
        floating = (spec for spec in value.schema.tensors.values() if spec.is_floating)
        matrices = [params.as_matrix(spec) for spec in floating if params.decomposes(spec)]
        ranks = Counter((self.rank(params, matrix, count), min(matrix.shape)) for matrix in matrices)
        share = sum(matrix.numel for matrix in matrices) / max(sum(value.schema.numels.values()), 1)
        shapes = sorted({matrix.shape for matrix in matrices}, key=math.prod)
        largest = f", the largest {' x '.join(map(str, shapes[-1]))}" if shapes else ""
        return OpExplanation(
            (
                f"decomposes {len(matrices)} matrices of {count} task vectors, {share:.1%} of the parameters{largest}",
                *(f"rank {kept} of {full}: {number} matrices" for (kept, full), number in sorted(ranks.items())),
            ),
            {
                "matrices": len(matrices),
                "ranks": {matrix.name: self.rank(params, matrix, count) for matrix in matrices},
            },
        )

    @abstractmethod
    def merge_by(self, params: SP, matrices: Matrices, tensor: TensorSpec, stats: Mapping[str, S]) -> torch.Tensor:
        """Return the merged matrix of the task vectors' matrices, by statistics of whole models."""


class SpectralOp(MatrixOp[SP], Generic[SP]):
    """A method that merges matrices without statistics of whole models."""

    def merge_by(self, params: SP, matrices: Matrices, tensor: TensorSpec, stats: Mapping[str, Never]) -> torch.Tensor:
        return self.merge(params, matrices, tensor)

    @abstractmethod
    def merge(self, params: SP, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        """Return the merged matrix of the task vectors' matrices."""
