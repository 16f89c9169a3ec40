"""Fetches the published CLIP ViT-B/32 heads and stores their tensors: ``python recipes/suites/convert_heads.py``.

The heads are pickled modules. Only tensors are rebuilt from them; any other class or function is refused.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

SUITE = Path(__file__).parent / "clip_vit_b32_20.yaml"
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("__builtin__", "set"),
    ("builtins", "set"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


class Head:
    """Stands in for the published class: takes the state, runs nothing."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "ClassificationHead":
            return Head
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a head")
        return super().find_class(module, name)


def head_weight(path: Path) -> torch.Tensor:
    """The [classes, features] tensor of a pickled linear head without a bias."""
    tensors_only = ModuleType("tensors_only")
    tensors_only.Unpickler, tensors_only.load = _Unpickler, pickle.load
    head = torch.load(path, map_location="cpu", weights_only=False, pickle_module=tensors_only)
    parameters = vars(head)["_parameters"]
    if parameters.get("bias") is not None and parameters["bias"].any():
        raise ValueError(f"{path}: the head has a bias, which a suite's head cannot express")
    return parameters["weight"].detach().float().contiguous()


def main() -> None:
    """Fetch and convert the head of every task of the suite."""
    from huggingface_hub import hf_hub_download

    for task, entry in yaml.safe_load(SUITE.read_text(encoding="utf-8"))["tasks"].items():
        source = hf_hub_download("nik-dim/tall_masks", f"single_task/ViT-B-32/head_{task}Val.pt")
        target = SUITE.parent / entry["head"]
        target.parent.mkdir(exist_ok=True)
        save_file({"weight": head_weight(Path(source))}, target)
        print(f"{target}", file=sys.stderr)


if __name__ == "__main__":
    main()
