"""``layer-inputs``: what flows into each linear layer of a model, on the inputs of a task."""

from __future__ import annotations

from dataclasses import replace

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.layer_statistics import LayerStatistics, Observed
from lines_pipeline.ops.task_statistics import TaskParams


class LayerInputs(LayerStatistics):
    """Gives the rows of each layer, batch by batch, named by its weight; every token is a row.

    Differs from the source in taking all linear layers: that takes those of MLPs, and the first of attention.
    """

    name = "layer-inputs"
    formula = "X [rows, in] of every linear layer"
    source = "arXiv 2602.20208; kiddo127/ESM, ESM-ViT/essential_subspace_decomposition.py"

    def presumed(self, params: TaskParams, weight: TensorSpec) -> TensorSpec:
        return replace(weight, shape=(params.rows, weight.shape[1]))

    def measured_bytes(self, tensor: TensorSpec) -> int:
        return 4 * tensor.numel

    def measured(self, observed: Observed) -> dict[str, torch.Tensor]:
        parts: dict[str, list[torch.Tensor]] = {}
        for weight, rows in observed:
            parts.setdefault(weight, []).append(rows.float().cpu())
        return {weight: torch.cat(parts.pop(weight)) for weight in list(parts)}
