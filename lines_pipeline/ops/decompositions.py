"""Singular values, triplets and polar factors of one matrix, in memory of the order of the matrix itself.

The route is the Gram matrix of the smaller side, summed in float64 over strips of rows and decomposed as a symmetric
matrix: singular values are then exact down to about ``s_max * 1e-8``. Where one lies below what rounding to float32
leaves unknown, ``s_max * R * eps(float32)`` with R the smaller side, the matrix is reduced by float64 QR over the same
strips, and the triangular factor [R, R] is decomposed: exact down to ``s_max * R * eps(float64)``. Directions below
that, or below ``s_max * 8 * eps`` of the matrix's own type, which rounding of its entries makes of none at all, are its
null directions; they are left out of every result.

All results depend on the library that decomposes: they are equal on one machine and within 5e-5 between machines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lines_pipeline.core.tensor_specs import ITEM_BYTES, TensorSpec

STRIP_NUMEL = 2**20
"""Values of a matrix that are held in float64 at a time."""

ROUNDING = 8
"""Singular values below so many times the type's epsilon, as shares of the largest, are what rounding has made."""

FACTOR_BYTES = 6 * 8
"""Bytes by entry of an [R, R] matrix while it is decomposed: itself, its vectors and the library's workspace."""


@dataclass(frozen=True)
class Triplets:
    """Leading singular triplets of a matrix [m, n], at most ``rank`` of them.

    ``left`` is [m, r] and ``right`` [n, r], in the type of the matrix; ``values`` is [r], float64, descending.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    def product(self) -> torch.Tensor:
        """Return ``left diag(values) right^T`` [m, n]."""
        return (self.left * self.values.to(self.left.dtype)) @ self.right.T


class SideBySide:
    """Triplets of several matrices of one shape, written into place as they come: none is kept twice."""

    def __init__(self, room: int) -> None:
        self._room, self._used = room, 0
        self._all: Triplets | None = None

    def add(self, triplets: Triplets) -> None:
        """Append triplets; in all there are at most as many as there is room for."""
        if self._all is None:
            sides = (side.new_empty(len(side), self._room) for side in (triplets.left, triplets.right))
            self._all = Triplets(next(sides), triplets.values.new_empty(self._room), next(sides))
        place = slice(self._used, self._used + len(triplets.values))
        self._all.left[:, place], self._all.right[:, place] = triplets.left, triplets.right
        self._all.values[place] = triplets.values
        self._used = place.stop

    def filled(self) -> Triplets:
        """Return all that were added."""
        assert self._all is not None
        used = slice(self._used)
        return Triplets(self._all.left[:, used], self._all.values[used], self._all.right[:, used])


def leading_triplets(matrix: torch.Tensor, rank: int, *, rounded_at: float = 0.0) -> Triplets:
    """Return the ``rank`` leading singular triplets of [m, n]: fewer where the matrix has fewer directions.

    A matrix that is the difference of larger ones was rounded at their norm, which ``rounded_at`` tells.
    """
    if matrix.shape[0] < matrix.shape[1]:
        turned = leading_triplets(matrix.T.contiguous(), rank, rounded_at=rounded_at)
        return Triplets(turned.right, turned.values, turned.left)
    if not rank:
        nothing = matrix.new_zeros(0, dtype=torch.float64)
        return Triplets(matrix[:, :0], nothing, matrix.new_zeros(matrix.shape[1], 0))
    values, vectors = _right_factors(matrix, rank, rounded_at)
    values, vectors = values[:rank], vectors[:, :rank]
    return Triplets(_times(matrix, vectors / values), values, vectors.to(matrix.dtype))


def polar_factor(matrix: torch.Tensor) -> torch.Tensor:
    """Return ``U V^T`` of the singular value decomposition of [m, n], over the directions that the matrix has."""
    if matrix.shape[0] < matrix.shape[1]:
        return polar_factor(matrix.T.contiguous()).T
    values, vectors = _right_factors(matrix)
    return _times(matrix, (vectors / values) @ vectors.T)


def isotropic(matrix: torch.Tensor, *, rounding: int = ROUNDING) -> torch.Tensor:
    """Return the polar factor of [m, n] times the mean of all R singular values, null directions among them.

    Rows and columns that were scaled apart have small directions that are real: these take no ``rounding``.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return isotropic(matrix.T.contiguous(), rounding=rounding).T
    values, vectors = _right_factors(matrix, rounding=rounding)
    mean = values.sum() / matrix.shape[1]
    return _times(matrix, (vectors * (mean / values)) @ vectors.T)


def decorrelated(triplets: Triplets) -> torch.Tensor:
    """Return ``polar(left) diag(values) polar(right)^T`` [m, n]: all zero where there is no triplet."""
    if not len(triplets.values):
        return triplets.left.new_zeros(len(triplets.left), len(triplets.right))
    return Triplets(polar_factor(triplets.left), triplets.values, polar_factor(triplets.right)).product()


def decomposition_bytes(tensor: TensorSpec) -> int:
    """Return the memory that decomposing a matrix takes on top of the matrix, its result included."""
    return matrix_bytes(tensor) + FACTOR_BYTES * min(tensor.shape) ** 2 + 3 * strip_bytes(tensor)


def matrix_bytes(tensor: TensorSpec) -> int:
    """Return the memory of the tensor in the type that it is computed in."""
    return tensor.numel * ITEM_BYTES[tensor.compute_dtype]


def computed_as(tensor: TensorSpec) -> torch.dtype:
    """Return the type that the tensor is computed in."""
    return torch.float64 if tensor.compute_dtype == "float64" else torch.float32


def strip_bytes(tensor: TensorSpec) -> int:
    """Return the memory of a strip of the matrix in float64."""
    return 8 * min(max(STRIP_NUMEL, *tensor.shape), tensor.numel)


def vectors_bytes(tensor: TensorSpec) -> int:
    """Return the memory of as many singular vectors of both sides as the matrix has directions."""
    return min(tensor.shape) * sum(tensor.shape) * ITEM_BYTES[tensor.compute_dtype]


def strips(matrix: torch.Tensor, columns: int) -> tuple[torch.Tensor, ...]:
    """Return views of neighbouring rows, as many in each as make ``STRIP_NUMEL`` values of ``columns``."""
    rows = max(STRIP_NUMEL // columns, 1)
    return tuple(matrix[start : start + rows] for start in range(0, matrix.shape[0], rows))


def add_gram(total: torch.Tensor, matrix: torch.Tensor, weight: float = 1.0) -> None:
    """Add ``weight * matrix^T matrix`` [n, n] of [m, n] to ``total``, in float64 strip after strip."""
    for strip in strips(matrix, matrix.shape[1]):
        wide = strip.double()
        total.addmm_(wide.T, wide, alpha=weight)


def solved_from_right(
    gram: torch.Tensor, target: torch.Tensor, ridge: float, *, unknown_below: float
) -> tuple[torch.Tensor, int]:
    """Return M [m, n] with ``M (G + ridge mean(diag G) I) = target``, and how many of n directions of G it is from.

    Where there is no ridge, or rounding takes it away, M is that of least norm over the directions whose eigenvalues
    are above ``n * unknown_below`` times the largest. ``gram``, G [n, n] in float64, is changed.
    """
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(gram)
    if ridge and not failed:
        return torch.cholesky_solve(target.T, factor).T, len(gram)
    values, vectors = torch.linalg.eigh(gram)
    known = values > values[-1].clamp(min=0) * len(gram) * unknown_below
    vectors = vectors[:, known]
    return ((target @ vectors) / values[known]) @ vectors.T, vectors.shape[1]


def _right_factors(
    matrix: torch.Tensor, rank: int | None = None, rounded_at: float = 0.0, rounding: int = ROUNDING
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the singular values above rounding, descending, and the right singular vectors [n, r], of [m, n], m >= n.

    Where ``rank`` is given, those after the first ``rank`` may be off.
    """
    if not matrix.shape[1]:
        return matrix.new_zeros(0, dtype=torch.float64), matrix.new_zeros(0, 0, dtype=torch.float64)
    gram = matrix.new_zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    add_gram(gram, matrix)
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp(min=0).sqrt()
    last = values[min(rank or len(values), len(values)) - 1]
    largest = max(float(values[0]), rounded_at)
    if last > largest * max(len(values), ROUNDING) * torch.finfo(torch.float32).eps:
        return values, vectors.flip(1)
    _, values, rows = torch.linalg.svd(_triangular_factor(matrix), full_matrices=False)
    unknown = max(len(values) * torch.finfo(torch.float64).eps, rounding * torch.finfo(matrix.dtype).eps)
    kept = int((values > largest * unknown).sum())
    return values[:kept], rows[:kept].T


def _triangular_factor(matrix: torch.Tensor) -> torch.Tensor:
    """Return R [n, n] of a float64 QR decomposition of [m, n], strip after strip."""
    factor = matrix.new_zeros(0, matrix.shape[1], dtype=torch.float64)
    for strip in strips(matrix, matrix.shape[1]):
        factor = torch.linalg.qr(torch.cat((factor, strip.double())), mode="r")[1]
    return factor


def _times(matrix: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return ``matrix @ factor`` in the type of ``matrix``, multiplied in float64 strip after strip."""
    result = matrix.new_empty(matrix.shape[0], factor.shape[1])
    for strip, target in zip(strips(matrix, matrix.shape[1]), strips(result, matrix.shape[1]), strict=True):
        target.copy_(strip.double() @ factor)
    return result
