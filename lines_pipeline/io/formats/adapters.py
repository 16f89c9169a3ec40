"""Reads PEFT LoRA adapters: which factors, scaling and whole tensors a folder holds for which modules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable
from lines_pipeline.io.checkpoint import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.io.json_files import read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."
"""Begins the names of all tensors of an adapter."""
_FILES = (ADAPTER_WEIGHTS, "adapter_model.bin")
_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.(.+))?")
_SAVED_MODULE = re.compile(r"\.modules_to_save(?:\.[^.]+)?(?=\.(?:weight|bias)$)")
_REGEX_SECONDS = 0.2

_REFUSED = {
    "use_qalora": "QALoRA, which is for quantised models",
    "alora_invocation_tokens": "activated LoRA, which depends on the tokens and has no merged form",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing, which has no merged form",
    "kasa_config": "KaSA, which changes the base's weights",
    "layer_replication": "layers that are used several times",
    "trainable_token_indices": "single trained tokens",
    "target_parameters": "parameters that are no module's weight, as in mixtures of experts",
}
"""Settings under which the update is not scaling * B @ A of modules."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Factors:
    """Holds two matrices whose scaled product is the update of one module's weight; ``a`` is [rank, ...]."""

    a: StoredTensor
    b: StoredTensor
    scaling: float
    embedding: bool = False
    magnitude: StoredTensor | None = None
    """DoRA: the length that each row of the updated weight gets."""


@dataclass(frozen=True)
class Adapter:
    """Holds a PEFT adapter as its folder has it, by the adapter's names of the tensors that it changes."""

    uri: str
    files: tuple[SourceFile, ...]
    factors: Mapping[str, Factors]
    biases: Mapping[str, tuple[StoredTensor, float]]
    """What is added to biases, and its scaling (``lora_bias``)."""
    whole: Mapping[str, StoredTensor]
    """Tensors that take the place of the base's (``modules_to_save``, trained biases)."""
    transposed: bool
    """Whether weights are stored as (in, out), as GPT-2's are (``fan_in_fan_out``)."""
    notes: tuple[str, ...] = ()


def read_adapter(folder: Path, uri: str, open_file: Callable[[Path], Checkpoint]) -> Adapter:
    """Read the configuration and the header of an adapter. Raises ``CheckpointError`` for what is no LoRA of PEFT."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{uri}: 'op: adapter' takes the folder of a PEFT adapter ({ADAPTER_CONFIG} and {ADAPTER_WEIGHTS})"
        )
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if not (folder / ADAPTER_CONFIG).is_file() or file is None:
        lacking = ADAPTER_WEIGHTS if (folder / ADAPTER_CONFIG).is_file() else ADAPTER_CONFIG
        raise CheckpointError(f"{uri}: no PEFT adapter: the folder holds no {lacking}")
    config = _read_config(folder, uri)
    checkpoint = open_file(file)
    sorted_tensors = _Sorted(uri)
    for name, stored in {**checkpoint.tensors, **_tied(checkpoint)}.items():
        sorted_tensors.add(name.removeprefix(ADAPTER_PREFIX), stored)
    factors, biases = sorted_tensors.factors(config)
    files = (*checkpoint.files, SourceFile.of(folder / ADAPTER_CONFIG))
    return Adapter(uri, files, factors, biases, sorted_tensors.whole, config.transposed, checkpoint.notes)


def _tied(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    return {alias: checkpoint.tensors[name] for alias, name in checkpoint.aliases.items()}


@dataclass(frozen=True)
class _Config:
    """Holds the ranks and scalings of a LoRA's configuration."""

    uri: str
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilized: bool
    transposed: bool
    dora: bool

    def rank_of(self, module: str) -> int:
        """Return the rank of a module: that of the first pattern that its name matches, else the adapter's."""
        return int(self._of(module, self.ranks, self.rank))

    def scaling_of(self, module: str) -> float:
        """Return alpha / r, with rsLoRA alpha / sqrt(r)."""
        rank, alpha = self.rank_of(module), self._of(module, self.alphas, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank

    def _of(self, module: str, patterns: Mapping[str, float], default: float) -> float:
        for pattern, value in patterns.items():
            try:
                if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_REGEX_SECONDS):
                    return value
            except (regex.error, TimeoutError, RecursionError) as error:
                reason = "takes too long" if isinstance(error, TimeoutError) else error
                raise CheckpointError(
                    f"{self.uri}: {ADAPTER_CONFIG}: bad pattern '{printable(pattern)}' of modules ({reason})"
                ) from error
        return default


def _read_config(folder: Path, uri: str) -> _Config:
    content = read_json(folder / ADAPTER_CONFIG)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{uri}: {ADAPTER_CONFIG} is not a map")
    kind = content.get("peft_type")
    if kind != "LORA":
        named = printable(str(kind), 30)
        raise CheckpointError(
            f"{uri}: an adapter of kind {named}, and 'op: adapter' takes LoRA: "
            "merge it into its model with merge_and_unload() of peft and load that"
        )
    _refuse_variants(uri, content)
    rank, alpha = content.get("r", 8), content.get("lora_alpha", 8)
    ranks, alphas = content.get("rank_pattern") or {}, content.get("alpha_pattern") or {}
    if not (_is_rank(rank) and _is_number(alpha) and _is_pattern(ranks, _is_rank) and _is_pattern(alphas, _is_number)):
        raise CheckpointError(
            f"{uri}: {ADAPTER_CONFIG}: expected 'r' above 0, a number 'lora_alpha', and such values by module in "
            "'rank_pattern' and 'alpha_pattern'"
        )
    flags = (bool(content.get(name)) for name in ("use_rslora", "fan_in_fan_out", "use_dora"))
    return _Config(uri, rank, alpha, ranks, alphas, *flags)


def _refuse_variants(uri: str, content: Mapping[str, Any]) -> None:
    """Raise ``CheckpointError`` for settings that change what the factors mean."""
    remedy = "merge it into its model with merge_and_unload() of peft and load that"
    for key, effect in _REFUSED.items():
        if content.get(key):
            raise CheckpointError(
                f"{uri}: {ADAPTER_CONFIG} says '{key}': {effect}, which 'op: adapter' does not take; {remedy}"
            )
    known = {"use_rslora", "use_dora"}
    unknown = [key for key, value in content.items() if str(key).startswith("use_") and value and key not in known]
    if unknown:
        setting = f"'{printable(str(unknown[0]))}', a kind of LoRA that 'op: adapter' does not take"
        raise CheckpointError(f"{uri}: {ADAPTER_CONFIG} says {setting}; {remedy}")
    start = content.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{uri}: {ADAPTER_CONFIG} says that training began from '{printable(start)}', which changes "
            "the base's weights too: save it again with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...) of peft"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_pattern(value: Any, is_value: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(is_value(entry) for entry in value.values())


@dataclass
class _Sorted:
    """Sorts the tensors of an adapter into factors, biases and whole tensors."""

    uri: str
    parts: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)
    whole: dict[str, StoredTensor] = field(default_factory=dict)
    adapters: set[str] = field(default_factory=set)

    def add(self, name: str, stored: StoredTensor) -> None:
        """Take in one tensor, or raise ``CheckpointError`` for what is neither a factor nor a tensor of the base."""
        factor = _FACTOR.fullmatch(name)
        if factor:
            module, part, suffix = factor.groups(default="")
            *adapter, leaf = suffix.split(".") if suffix else [""]
            if leaf not in ("weight", "bias"):
                adapter, leaf = [*adapter, leaf] if leaf else adapter, "weight"
            self.adapters.add(".".join(adapter))
            if len(self.adapters) > 1:
                adapters = ", ".join(f"'{printable(adapter_name)}'" for adapter_name in sorted(self.adapters))
                raise CheckpointError(f"{self.uri}: several adapters ({adapters}) in one file; save each by itself")
            self.parts.setdefault(module, {})[f"{part}.{leaf}"] = stored
            return
        plain = _SAVED_MODULE.sub("", name).replace(".base_layer.", ".")
        if not plain.endswith((".weight", ".bias")) or re.search(r"lora_|ia3_|token_adapter|original_module", plain):
            raise CheckpointError(
                f"{self.uri}: tensor '{printable(name)}' belongs to a kind of adapter that 'op: adapter' does not "
                "take; merge it into its model with merge_and_unload() of peft and load that"
            )
        self.whole[plain] = stored

    def factors(self, config: _Config) -> tuple[dict[str, Factors], dict[str, tuple[StoredTensor, float]]]:
        """Return updates of weights and of biases by the names of the tensors that they change."""
        factors: dict[str, Factors] = {}
        biases: dict[str, tuple[StoredTensor, float]] = {}
        for module, parts in sorted(self.parts.items()):
            plain = module.replace(".base_layer.", ".")
            weight = "in_proj_weight" if f"{module}.base_layer.out_proj" in self.parts else "weight"
            factors[f"{plain}.{weight}"] = _factors(self.uri, module, parts, config)
            if "lora_B.bias" in parts:
                biases[f"{plain}.bias"] = parts["lora_B.bias"], config.scaling_of(module)
        return factors, biases


def _factors(uri: str, module: str, parts: Mapping[str, StoredTensor], config: _Config) -> Factors:
    embedding = "lora_embedding_A.weight" in parts
    names = ("lora_embedding_A.weight", "lora_embedding_B.weight") if embedding else ("lora_A.weight", "lora_B.weight")
    lacking = [name for name in names if name not in parts]
    odd = sorted(set(parts) - {*names, "lora_B.bias", "lora_magnitude_vector.weight"})
    where = f"{uri}: module '{printable(module)}'"
    if lacking or odd:
        fault = f"lacks '{lacking[0]}'" if lacking else f"has '{odd[0]}' besides"
        raise CheckpointError(f"{where} {fault}; save the adapter again with save_pretrained() of peft")
    a, b = (parts[name] for name in names)
    rank = config.rank_of(module)
    if len(a.spec.shape) < 2 or len(b.spec.shape) < 2 or (a.spec.shape[0], b.spec.shape[1]) != (rank, rank):
        raise CheckpointError(
            f"{where} has factors of shapes {list(a.spec.shape)} and {list(b.spec.shape)}, expected the rank {rank} "
            f"that {ADAPTER_CONFIG} says as the first and the second of their axes"
        )
    if not (a.spec.is_floating and b.spec.is_floating):
        raise CheckpointError(f"{where} has factors of {a.spec.dtype} and {b.spec.dtype}, expected floating-point ones")
    magnitude = parts.get("lora_magnitude_vector.weight")
    if config.dora != (magnitude is not None) or (embedding and magnitude is not None):
        raise CheckpointError(
            f"{where} {'has' if magnitude else 'lacks'} DoRA's magnitudes, which 'op: adapter' takes of linear and "
            "convolutional layers of a DoRA adapter; merge it with merge_and_unload() of peft and load that"
        )
    return Factors(a, b, config.scaling_of(module), embedding, magnitude)
