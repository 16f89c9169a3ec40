"""``gram``: how the inputs of each linear layer of a model vary together, on the inputs of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.decompositions import add_gram
from lines_pipeline.ops.layer_names import module_of
from lines_pipeline.ops.layer_statistics import LayerStatistics, Observer


class Gram(LayerStatistics):
    """Gives a matrix [in, in] a layer, summed in float64 and named by module (``MODULE`` for ``MODULE.weight``).

    Differs from the source in taking the layers that nn.MultiheadAttention multiplies with itself, and those of others
    who call ``linear`` without nn.Linear; such weights, and square ones [in, out], are named by tensor.
    """

    name = "gram"
    version = 2
    formula = "G = X^T X / rows,  X [rows, in] the inputs of a linear layer; every token is a row, padding is none"
    source = "Jin et al., arXiv 2212.09849; bloomberg/dataless-model-merging, local_trainer.py (compute_grams)"

    def presumed(self, rows: int, weight: TensorSpec) -> TensorSpec:
        return replace(weight, name=module_of(weight.name), shape=(weight.shape[1],) * 2)

    def measured_bytes(self, tensors: Sequence[TensorSpec]) -> int:
        return sum((8 + 4) * tensor.numel for tensor in tensors)

    def measured(self, observe: Observer) -> dict[str, torch.Tensor]:
        sums: dict[str, torch.Tensor] = {}
        counts: Counter[str] = Counter()

        def add(weight: str, rows: torch.Tensor) -> None:
            name, width = module_of(weight), rows.shape[1]
            if name not in sums:
                sums[name] = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
            add_gram(sums[name], rows)
            counts[name] += len(rows)

        observe(add)
        return {name: total.div_(counts[name]).float() for name, total in sums.items()}
