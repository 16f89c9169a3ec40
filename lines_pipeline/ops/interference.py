"""What the methods that minimise interference between tasks know of a matrix: as much for 3 tasks as for 20.

The loss ``sum_t |(M - tau_t) tau_t^T|^2 / |tau_t|^2`` of M [m, n] has the gradient ``2 (M G - B)`` with
``G = sum_t tau_t^T tau_t / |tau_t|^2`` [n, n] and ``B = sum_t tau_t tau_t^T tau_t / |tau_t|^2`` [m, n].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import add_gram, matrix_bytes, strip_bytes, strips
from lines_pipeline.ops.spectral import Matrices


@dataclass(frozen=True)
class Interference:
    """``total`` is the sum of the task vectors, in their type; ``gram`` is G and ``target`` B, both float64.

    Tasks that leave the matrix as it is are in none of them.
    """

    total: torch.Tensor
    gram: torch.Tensor
    target: torch.Tensor

    @classmethod
    def of(cls, matrices: Matrices) -> Interference:
        """Read each task's matrix once."""
        total = matrices[0].clone()
        rows, columns = total.shape
        wide = {"dtype": torch.float64, "device": total.device}
        interference = cls(total, torch.zeros(columns, columns, **wide), torch.zeros(rows, columns, **wide))
        interference._add(total)
        for task in range(1, len(matrices)):
            matrix = matrices[task]
            total += matrix
            interference._add(matrix)
            del matrix
        return interference

    def gradient_at_total(self) -> torch.Tensor:
        """Return ``total G - B``, half the gradient there, in the type of ``total``; what rounding leaves of 0 is 0."""
        result, columns = torch.empty_like(self.total), self.total.shape[1]
        largest = float(self.total.abs().max()) * float(self.gram.abs().max())
        rounding = largest * columns * torch.finfo(torch.float64).eps
        parts = (strips(matrix, columns) for matrix in (self.total, self.target, result))
        for rows, target, into in zip(*parts, strict=True):
            gradient = torch.addmm(target, rows.double(), self.gram, beta=-1)
            into.copy_(functional.hardshrink(gradient, rounding))
        return result

    def _add(self, matrix: torch.Tensor) -> None:
        norm = sum(float(strip.double().square_().sum()) for strip in strips(matrix, matrix.shape[1]))
        if not norm:
            return
        side = min(matrix.shape)
        smaller = torch.zeros(side, side, dtype=torch.float64, device=matrix.device)
        tall, target = (matrix, self.target) if matrix.shape[1] == side else (matrix.T, self.target.T)
        add_gram(smaller, tall, 1 / norm)
        for rows, products in zip(strips(tall, side), strips(target, side), strict=True):
            products.addmm_(rows.double(), smaller)
        if tall is matrix:
            self.gram.add_(smaller)
        else:
            add_gram(self.gram, matrix, 1 / norm)


def interference_bytes(tensor: TensorSpec) -> int:
    """Return the memory that ``Interference.of`` takes besides one matrix, and ``gradient_at_total`` after it.

    G and B count twice: the library packs the factors of a product, and the memory of strips is not reused for all.
    """
    wide = 8 * (2 * tensor.shape[1] ** 2 + 2 * tensor.numel + min(tensor.shape) ** 2)
    return wide + 3 * strip_bytes(tensor) + matrix_bytes(tensor)
