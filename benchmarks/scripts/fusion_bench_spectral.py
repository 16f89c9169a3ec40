"""FusionBench's own TSV-M, Iso-C and Iso-CTS, on models made of plain checkpoints.

``python fusion_bench_spectral.py SETTINGS.json``; the settings are written by ``benchmarks/spectral.py``. Tensors are
widened to float32 as they are read: FusionBench decomposes in the type that it is given.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from fusion_bench import BaseModelPool
from fusion_bench.method.isotropic_merging.iso import (
    IsotropicMergingInCommonAndTaskSubspace,
    IsotropicMergingInCommonSubspace,
)
from fusion_bench.method.task_singular_vector import TaskSingularVectorMerging
from fusion_bench_merge import as_module
from safetensors.torch import load_file, save_file


class CheckpointPool(BaseModelPool):  # type: ignore[misc]  # FusionBench is not installed where types are checked
    """Models named by their files; each is read when the algorithm asks for it."""

    def load_model(self, model_name_or_config: str, *args: Any, **kwargs: Any) -> torch.nn.Module:
        """The checkpoint of that name as a module."""
        return as_module({n: value.float() for n, value in load_file(self._models[model_name_or_config]).items()})


def main() -> None:
    """Load, merge, save."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    files = {"_pretrained_": settings["base"]} | {f"expert{i}": path for i, path in enumerate(settings["experts"])}
    algorithms = {
        "tsv-m": lambda: TaskSingularVectorMerging(alpha=1.0),
        "iso-c": lambda: IsotropicMergingInCommonSubspace(scaling_factor=1.0),
        "iso-cts": lambda: IsotropicMergingInCommonAndTaskSubspace(scaling_factor=1.0, common_space_fraction=0.8),
    }
    merged = algorithms[settings["method"]]().run(CheckpointPool(files))
    save_file({name: value.bfloat16() for name, value in merged.state_dict().items()}, settings["output"])


if __name__ == "__main__":
    main()
