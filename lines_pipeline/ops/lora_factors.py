"""Makes low-rank factors of an update, a matrix at a time: what a LoRA adapter with the same effect holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import exact_glob, listed, printable
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.adapter_folders import factor_names, module_of_linear
from lines_pipeline.ops.decompositions import decomposition_bytes, leading_triplets, matrix_bytes, strips, vectors_bytes


@dataclass
class LoraFactors:
    """Collects the factors of an update at one rank, and how far their products are from it.

    A [rank, in] and B [out, rank] share the roots of the singular values; rows and columns beyond a matrix's own
    directions are zero. Matrices that do not change have no factors.
    """

    rank: int
    transposed: frozenset[str] = frozenset()
    """Layers whose weights are [in, out]."""
    factors: dict[str, torch.Tensor] = field(default_factory=dict)
    _squares: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By tensor: squared norms of what is lost, and of the update."""

    def add(self, delta: Mapping[str, torch.Tensor]) -> None:
        """Add the factors of all tensors; ``CheckpointError`` for changes that LoRA cannot hold."""
        lost = []
        for name in sorted(delta):
            value = delta[name]
            if not torch.isfinite(value).all():
                raise CheckpointError(f"tensor '{printable(name)}': the update has NaN or Inf, which no factors give")
            module = module_of_linear(TensorSpec(name, "float32", tuple(value.shape)))
            if not value.any():
                continue
            if module is None:
                lost.append(name)
            elif not lost:
                self._add(name, module, value)
        if lost:
            raise CheckpointError(_refusal(lost))
        if not self.factors:
            raise CheckpointError("the update is zero everywhere: there is nothing that an adapter would hold")

    def _add(self, name: str, module: str, matrix: torch.Tensor) -> None:
        straight = matrix.T.contiguous() if module in self.transposed else matrix
        triplets = leading_triplets(straight, min(self.rank, *straight.shape))
        roots = triplets.values.sqrt().to(straight.dtype)
        a, b = straight.new_zeros(self.rank, straight.shape[1]), straight.new_zeros(straight.shape[0], self.rank)
        count = len(roots)
        a[:count], b[:, :count] = (triplets.right * roots).T, triplets.left * roots
        self._squares[name] = _squared_error(straight, a, b), float(_squared_norm(straight))
        name_a, name_b = factor_names(module)
        self.factors |= {name_a: a, name_b: b}

    def summary(self) -> dict[str, object]:
        """Return the relative error of the whole update in the Frobenius norm, and that of the worst matrix."""
        relative = {name: (lost / norm) ** 0.5 for name, (lost, norm) in self._squares.items()}
        worst = max(relative, key=lambda name: relative[name])
        total = sum(lost for lost, _ in self._squares.values()) / sum(norm for _, norm in self._squares.values())
        return {
            "matrices": len(relative),
            "relative_error": total**0.5,
            "largest_relative_error": relative[worst],
            "largest_relative_error_tensor": worst,
        }


def presumed_factors(tensors: Iterable[TensorSpec], rank: int) -> dict[str, TensorSpec]:
    """Return the factors that there are where every matrix of these tensors changes."""
    specs: dict[str, TensorSpec] = {}
    for spec in tensors:
        module = module_of_linear(spec)
        if module is not None:
            name_a, name_b = factor_names(module)
            specs[name_a] = TensorSpec(name_a, "float32", (rank, spec.shape[1]))
            specs[name_b] = TensorSpec(name_b, "float32", (spec.shape[0], rank))
    return specs


def factoring_bytes(tensors: Iterable[TensorSpec], rank: int) -> int:
    """Return the memory that making the factors takes: all of them, twice while they are stored, and one matrix."""
    matrices = [spec for spec in tensors if module_of_linear(spec) is not None]
    kept = sum(spec.nbytes for spec in presumed_factors(matrices, rank).values())
    working = (3 * matrix_bytes(s) + vectors_bytes(s) + decomposition_bytes(s) for s in matrices)
    return 2 * kept + max(working, default=0)


def _squared_error(matrix: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the squared Frobenius norm of ``matrix - b a``, in float64 strip after strip."""
    wide, total = a.double(), 0.0
    for rows, part in zip(strips(matrix, matrix.shape[1]), strips(b, matrix.shape[1]), strict=True):
        total += float(torch.addmm(rows.double(), part.double(), wide, alpha=-1).square().sum())
    return total


def _squared_norm(matrix: torch.Tensor) -> float:
    return sum(float(rows.double().square().sum()) for rows in strips(matrix, matrix.shape[1]))


def _refusal(lost: list[str]) -> str:
    several = len(lost) > 1
    return (
        f"{'tensors' if several else 'tensor'} {listed(lost)} {'change' if several else 'changes'}, and LoRA holds "
        "updates of the weights of linear layers alone (2-D tensors 'MODULE.weight' that are no embedding): leave "
        f"{'them' if several else 'it'} out where the update is made (exclude: [{exact_glob(lost[0])}"
        f"{', ...' if several else ''}]; 'drop' of a load), or save the update as a file ('delta.safetensors')"
    )
