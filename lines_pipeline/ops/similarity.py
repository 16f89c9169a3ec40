"""Compares features of the same samples in two models, batch by batch: linear CKA, and relative distance."""

from __future__ import annotations

from typing import Protocol

import torch


class Similarity(Protocol):
    """Gathers sums over batches, and gives one figure."""

    def add(self, base: torch.Tensor, model: torch.Tensor) -> None:
        """Take features of some samples: float64 [n, width] of each model; widths may differ."""

    def value(self) -> float:
        """Return the figure of all samples."""


class LinearCka:
    """``norm_F(Y^T X)^2 / (norm_F(X^T X) norm_F(Y^T Y))`` of centred features (Kornblith et al., arXiv 1905.00414).

    Sums of products are of features less the mean of the first batch: so nothing is lost when they are centred at last.
    Where features vary in neither model it is 1, where they do in one of them 0.
    """

    def __init__(self) -> None:
        self._count = 0
        self._shifts: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums: list[torch.Tensor] = []
        self._products: list[torch.Tensor] = []

    def add(self, base: torch.Tensor, model: torch.Tensor) -> None:
        """Take features of some samples."""
        if self._shifts is None:
            self._shifts = base.mean(0), model.mean(0)
        x, y = base - self._shifts[0], model - self._shifts[1]
        sums, products = [x.sum(0), y.sum(0)], [x.T @ x, y.T @ y, y.T @ x]
        first = not self._sums
        self._sums = sums if first else [a + b for a, b in zip(self._sums, sums, strict=True)]
        self._products = products if first else [a.add_(b) for a, b in zip(self._products, products, strict=True)]
        self._count += len(x)

    def value(self) -> float:
        """Return the similarity, from 0 to 1."""
        x, y = self._sums
        pairs = [(x, x), (y, y), (y, x)]
        scatters = [
            product - torch.outer(left, right) / self._count
            for product, (left, right) in zip(self._products, pairs, strict=True)
        ]
        own, other, cross = (float(torch.linalg.matrix_norm(scatter)) for scatter in scatters)
        if own == 0 or other == 0:
            return float(own == other)
        return cross / own * (cross / other)


class RelativeDistance:
    """``norm_F(Y - X) / norm_F(X)`` of features that are not centred; of equal widths."""

    def __init__(self) -> None:
        self._apart = self._base = 0.0

    def add(self, base: torch.Tensor, model: torch.Tensor) -> None:
        """Take features of some samples."""
        self._apart += float((model - base).square().sum())
        self._base += float(base.square().sum())

    def value(self) -> float:
        """Return the distance: 0 of equal features; infinite where the base's are all zero and others are not."""
        if self._apart == 0:
            return 0.0
        return float("inf") if self._base == 0 else (self._apart / self._base) ** 0.5
