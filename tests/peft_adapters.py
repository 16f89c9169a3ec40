"""Adapters as peft writes them: its own, for models of transformers, and small ones by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

PREFIX = "base_model.model."


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """An adapter folder with these tensors, by names without peft's prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {PREFIX + name: value.clone() for name, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder


def write_nodes(folder: Path, nodes: Mapping[str, Any]) -> Path:
    """A recipe in a folder."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "adapted", "nodes": dict(nodes)}))
    return path


APPLIED: Mapping[str, Any] = {
    "base": {"op": "load", "path": "base"},
    "update": {"op": "adapter", "path": "adapter", "base": "base"},
    "model": {"op": "apply", "base": "base", "delta": "update"},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}
"""The adapter added to its base."""
