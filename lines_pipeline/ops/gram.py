"""``gram``: how the inputs of each linear layer of a model vary together, on the inputs of a task."""

from __future__ import annotations

from dataclasses import replace

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.layer_names import module_of
from lines_pipeline.ops.layer_statistics import LayerStatistics, Observed
from lines_pipeline.ops.task_statistics import TaskParams


class Gram(LayerStatistics):
    """Gives a matrix [in, in] a layer, summed in float64 and named by module (``MODULE`` for ``MODULE.weight``).

    Differs from the source in taking the layers that nn.MultiheadAttention multiplies with itself, and those of others
    who call ``linear`` without nn.Linear; such weights, and square ones [in, out], are named by tensor.
    """

    name = "gram"
    formula = "G = X^T X / rows,  X [rows, in] the inputs of a linear layer; every token is a row"
    source = "Jin et al., arXiv 2212.09849; bloomberg/dataless-model-merging, local_trainer.py (compute_grams)"

    def presumed(self, params: TaskParams, weight: TensorSpec) -> TensorSpec:
        return replace(weight, name=module_of(weight.name), shape=(weight.shape[1],) * 2)

    def measured_bytes(self, tensor: TensorSpec) -> int:
        return (8 + 4) * tensor.numel

    def measured(self, observed: Observed) -> dict[str, torch.Tensor]:
        sums: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}
        for weight, rows in observed:
            name, width = module_of(weight), rows.shape[1]
            total = sums.setdefault(name, torch.zeros(width, width, dtype=torch.float64, device=rows.device))
            wide = rows.double()
            total.addmm_(wide.T, wide)
            counts[name] = counts.get(name, 0) + len(rows)
        return {name: (total / counts[name]).float() for name, total in sums.items()}
