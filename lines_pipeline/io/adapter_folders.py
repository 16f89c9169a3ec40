"""Describes the PEFT LoRA adapters that are written: names of factors, which modules they are for, configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.formats.adapters import ADAPTER_PREFIX
from lines_pipeline.io.hub import parse

_WEIGHT = ".weight"
_FACTOR_A = ".lora_A.weight"

_EMBEDDING = re.compile(
    r"(wte|wpe|shared|relative_attention_bias|tok_embeddings|(.*_)?emb(ed)?|(.*_)?embeddings?"
    r"|embed_(tokens|positions|in)(_\w+)?)"
)
"""Matches the last part of the names that libraries give to nn.Embedding."""
_CONV1D = re.compile(r"(.*\.)?h\.\d+\..*\.weight")
_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Kinds of models (``model_type``) whose blocks have weights [in, out]: Conv1D of transformers."""


def module_of_linear(spec: TensorSpec) -> str | None:
    """Return the linear layer that a tensor is the weight of, as its shape and name tell; None for other tensors."""
    module = spec.name.removesuffix(_WEIGHT)
    if not spec.is_floating or len(spec.shape) != 2 or not spec.numel or module in ("", spec.name):
        return None
    return None if _EMBEDDING.fullmatch(module.rpartition(".")[2]) else module


def conv1d_kind(config: Mapping[str, Any]) -> str | None:
    """Return the kind of model that a configuration is of, where its blocks have weights [in, out]; None elsewhere."""
    kind = config.get("model_type")
    return kind if kind in _CONV1D_MODELS else None


def conv1d_modules(tensors: Iterable[str], config: Mapping[str, Any]) -> frozenset[str]:
    """Return the layers whose weights, among these tensors, are [in, out] in a model with this configuration."""
    if conv1d_kind(config) is None:
        return frozenset()
    return frozenset(name.removesuffix(_WEIGHT) for name in tensors if _CONV1D.match(name))


def factor_names(module: str) -> tuple[str, str]:
    """Return the names of a layer's factors A [rank, in] and B [out, rank]."""
    return f"{ADAPTER_PREFIX}{module}{_FACTOR_A}", f"{ADAPTER_PREFIX}{module}.lora_B.weight"


@dataclass(frozen=True)
class AdapterSettings:
    """Holds what an adapter's configuration tells that its factors do not."""

    base_path: str | None = None
    """The base, as the recipe names it; None where it is not known."""
    transposes: bool = False
    """Whether the base has Conv1D layers."""

    def config(self, specs: Iterable[TensorSpec]) -> bytes:
        """Return ``adapter_config.json`` for factors of these names and shapes."""
        factors = [spec for spec in specs if spec.name.endswith(_FACTOR_A)]
        modules = sorted(spec.name.removeprefix(ADAPTER_PREFIX).removesuffix(_FACTOR_A) for spec in factors)
        rank = factors[0].shape[0]
        name, revision = _hub_name(self.base_path)
        content = {
            "base_model_name_or_path": name,
            "bias": "none",
            "fan_in_fan_out": self.transposes,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": rank,
            "revision": revision,
            "target_modules": modules,
            "task_type": None,
            "use_dora": False,
            "use_rslora": False,
        }
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _hub_name(path: str | None) -> tuple[str | None, str | None]:
    """Return name and revision of a repository as the Hugging Face hub calls it; of any other place the path alone."""
    if path is None or not path.lower().startswith("hf://"):
        return path, None
    try:
        place = parse(path)
    except CheckpointError:
        return path, None
    return place.repository, place.revision
