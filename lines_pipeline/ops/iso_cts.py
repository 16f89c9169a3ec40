"""``iso-cts``: directions that the tasks share and directions of each, with a flat spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import (
    SideBySide,
    Triplets,
    decomposition_bytes,
    decorrelated,
    isotropic,
    leading_triplets,
    matrix_bytes,
    strip_bytes,
    strips,
    vectors_bytes,
)
from lines_pipeline.ops.spectral import Matrices, SpectralOp, SpectralParams


class IsoCtsParams(SpectralParams):
    common_fraction: float = Field(
        0.8, description="Share of the directions that the sum gives; the tasks share the rest.", ge=0, le=1
    )


def rank_of_each(directions: int, count: int, common_fraction: float) -> int:
    """Return how many of ``directions`` each of ``count`` tasks gives: the sum gives what remains.

    The source's rounding (half to even) may ask for more directions than there are; one fewer a task is taken then.
    """
    rank = round((directions - int(directions * common_fraction)) / count)
    return rank if rank * count <= directions else directions // count


class IsoCts(SpectralOp[IsoCtsParams]):
    """Takes the leading directions of the sum, those of each task in what the sum's leave, decorrelates all, and gives
    them their mean singular value. Where the tasks' share rounds to no direction at all, that is ``iso-c``.

    Differs from the source where an update has fewer directions than it may give: null directions are left out.
    """

    name = "iso-cts"
    version = 2
    formula = "mean(s) polar([U_1 .. U_N, U_c]) polar([V_1 .. V_N, V_c])^T,  c of the sum, t of (I - U_c U_c^T) tau_t"
    source = "Marczak et al., arXiv 2502.04959; danielm1405/iso-merging, src/utils/iso.py (iso_cts)"
    Params = IsoCtsParams

    def merging_bytes(self, params: IsoCtsParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return matrix_bytes(tensor) + 2 * vectors_bytes(tensor) + decomposition_bytes(tensor) + strip_bytes(tensor)

    def matrices_taken(self, params: IsoCtsParams, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return 2 if rank_of_each(min(tensor.shape), counts["deltas"], params.common_fraction) else 1

    def merge(self, params: IsoCtsParams, matrices: Matrices, tensor: TensorSpec) -> torch.Tensor:
        directions = min(tensor.shape)
        rank = rank_of_each(directions, len(matrices), params.common_fraction)
        if not rank:
            return isotropic(matrices.sum())
        kept = SideBySide(directions)
        kept.add(leading_triplets(matrices.sum(), directions - rank * len(matrices)))
        common = kept.filled().left
        for task in range(len(matrices)):
            rest, norm = _without(matrices[task], common)
            kept.add(leading_triplets(rest, rank, rounded_at=norm))
        triplets = kept.filled()
        mean = triplets.values.sum() / directions
        return decorrelated(Triplets(triplets.left, mean.expand(len(triplets.values)), triplets.right))


def _without(matrix: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return ``matrix - U U^T matrix`` for orthonormal columns U, of which float64 products are taken, and |matrix|."""
    wide = directions.double()
    result, square = torch.empty_like(matrix), 0.0
    for columns, target in zip(strips(matrix.T, matrix.shape[0]), strips(result.T, matrix.shape[0]), strict=True):
        values = columns.double()
        square += float(values.square().sum())
        target.copy_(values.addmm_(values @ wide, wide.T, alpha=-1))
    return result, math.sqrt(square)
