"""``layer-inputs``: what flows into each linear layer of a model, on the inputs of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.layer_statistics import LayerStatistics, Observer


class LayerInputs(LayerStatistics):
    """Gives the rows of each layer, batch by batch, named by its weight; every token is a row, padding is none.

    Differs from the source in taking all linear layers: that takes those of MLPs, and the first of attention.
    """

    name = "layer-inputs"
    version = 2
    formula = "X [rows, in] of every linear layer"
    source = "arXiv 2602.20208; kiddo127/ESM, ESM-ViT/essential_subspace_decomposition.py"

    def presumed(self, rows: int, weight: TensorSpec) -> TensorSpec:
        return replace(weight, shape=(rows, weight.shape[1]))

    def measured_bytes(self, tensors: Sequence[TensorSpec]) -> int:
        sizes = [4 * tensor.numel for tensor in tensors]
        return sum(sizes) + max(sizes, default=0)

    def measured(self, observe: Observer) -> dict[str, torch.Tensor]:
        parts: dict[str, list[torch.Tensor]] = {}

        def keep(weight: str, rows: torch.Tensor) -> None:
            parts.setdefault(weight, []).append(rows.to("cpu", torch.float32, copy=True))

        observe(keep)
        return {weight: torch.cat(parts.pop(weight)) for weight in list(parts)}
