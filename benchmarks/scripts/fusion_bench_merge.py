"""FusionBench's own TIES and task arithmetic, on models made of plain checkpoints that its pool loads when asked.

``python fusion_bench_merge.py SETTINGS.json``; the settings are written by ``benchmarks/tools.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from fusion_bench import BaseModelPool
from fusion_bench.method import TaskArithmeticAlgorithm, TiesMergingAlgorithm
from safetensors.torch import load_file, save_file


class CheckpointPool(BaseModelPool):  # type: ignore[misc]
    """Models named by their files; each is read when the algorithm asks for it."""

    def load_model(self, model_name_or_config: str, *args: Any, **kwargs: Any) -> torch.nn.Module:
        """The checkpoint of that name as a module."""
        return as_module(load_file(self._models[model_name_or_config]))


def main() -> None:
    """Load, merge, save."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    files = {"_pretrained_": settings["base"]} | {f"expert{i}": path for i, path in enumerate(settings["experts"])}
    if settings["method"] == "ties":
        algorithm = TiesMergingAlgorithm(
            scaling_factor=settings["coefficient"], threshold=settings["density"], remove_keys=[], merge_func="mean"
        )
    else:
        algorithm = TaskArithmeticAlgorithm(scaling_factor=settings["coefficient"])
    merged = algorithm.run(CheckpointPool(files))
    save_file(merged.state_dict(), settings["output"])


def as_module(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A tree of empty modules that holds the tensors as parameters, under their dotted names."""
    root = torch.nn.Module()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return root


if __name__ == "__main__":
    main()
