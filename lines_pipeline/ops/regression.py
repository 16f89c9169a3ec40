"""RegMean's solution of one layer: the weight whose answers are nearest to those of each model on its own inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.base import Beside
from lines_pipeline.ops.decompositions import computed_as, solved_from_right, strips
from lines_pipeline.ops.layer_names import is_transposed
from lines_pipeline.ops.remarks import remark


@dataclass
class Regression:
    """Adds up models, one after the other; ``solution`` is the mean M, and what the inputs say beyond it.

    That is ``D (G + ridge)^-1`` with ``G = sum w_t G_t`` and ``D = sum w_t W_t G_t - M G``, off-diagonal entries of
    each G_t times ``reduce_non_diagonal``. All sums are in float64.
    """

    tensor: TensorSpec
    reduce_non_diagonal: float
    ridge: float
    _sums: _Sums | None = None
    _weight: float = 0.0
    _is_transposed: bool = False
    """Whether the tensor is [in, out], as the first Gram matrix tells."""

    def add(self, model: torch.Tensor, gram: Beside, weight: float) -> None:
        """Add a model's weight, in the tensor's shape, and the Gram matrix of its inputs."""
        turned = is_transposed(gram.name, len(gram.value), self.tensor)
        if self._sums is None:
            self._is_transposed = turned
            shape = self.tensor.shape[::-1] if turned else self.tensor.shape
            self._sums = _Sums.of(shape, gram.value.device)
        self._sums.add(model.T if turned else model, _reduced(gram.value, self.reduce_non_diagonal), weight)
        self._weight += weight

    def solution(self) -> torch.Tensor:
        """Return the merged weight in the tensor's shape and compute type."""
        assert self._sums is not None
        mean = self._sums.mean.div_(self._weight)
        beyond = _solved(self._sums.gram, self._sums.target.sub_(mean @ self._sums.gram), self.ridge)
        merged = mean.add_(beyond).to(computed_as(self.tensor))
        return (merged.T if self._is_transposed else merged).contiguous()


def _reduced(gram: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the matrix in float64, its off-diagonal entries times a factor."""
    reduced = gram.double() * factor
    reduced.diagonal().copy_(gram.diagonal())
    return reduced


@dataclass
class _Sums:
    """Sums over models in float64: of their weights and of weights times Gram matrices [out, in], of these [in, in]."""

    mean: torch.Tensor
    target: torch.Tensor
    gram: torch.Tensor

    @classmethod
    def of(cls, shape: tuple[int, ...], device: torch.device) -> _Sums:
        """Return zero sums for a weight [out, in]."""
        shapes = (shape, shape, (shape[1],) * 2)
        return cls(*(torch.zeros(size, dtype=torch.float64, device=device) for size in shapes))

    def add(self, model: torch.Tensor, gram: torch.Tensor, weight: float) -> None:
        """Add a model's weight [out, in], strip after strip, and its Gram matrix, which is changed."""
        gram *= weight
        self.gram += gram
        parts = (strips(matrix, len(gram)) for matrix in (model, self.target, self.mean))
        for rows, products, means in zip(*parts, strict=True):
            wide = rows.double()
            products.addmm_(wide, gram)
            means.add_(wide, alpha=weight)


def _solved(gram: torch.Tensor, target: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return M with ``M (G + ridge) = target``; of least norm where the float32 inputs of G do not tell the rest."""
    solved, count = solved_from_right(gram, target, ridge, unknown_below=torch.finfo(torch.float32).eps)
    if count < len(gram):
        remark(
            f"the sum of its Gram matrices has {count} directions of {len(gram)}: solved by least squares; "
            "more 'rows', a smaller 'reduce_non_diagonal' or a larger 'ridge' give all"
        )
    return solved
