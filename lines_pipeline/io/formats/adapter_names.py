"""Recognises adapters by the names of their tensors: factors of an update, which are no model's weights."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable

_PEFT_LORA = "PEFT LoRA"
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (_PEFT_LORA, re.compile(r"(?:^|\.)lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\.|$)")),
    ("kohya LoRA", re.compile(r"\.lora_(?:up|down)\.weight$")),
    ("diffusers LoRA", re.compile(r"(?:_lora|\.lora|lora_linear_layer)\.(?:up|down)\.weight$")),
    ("MLX or torchtune LoRA", re.compile(r"\.lora_[ab](?:\.weight)?$")),
    ("LyCORIS", re.compile(r"\.(?:hada_w[12](?:_[ab])?|lokr_w[12](?:_[ab])?|oft_blocks|oft_diag)$")),
    ("PEFT IA3", re.compile(r"\.ia3_l(?:\.|$)")),
    ("PEFT", re.compile(r"\.(?:vera_lambda_[bd]|oft_r|boft_[Rs]|fourierft_spectrum)(?:\.|$)|^prompt_embeddings$")),
)
"""Kinds of adapters, by what the names of their tensors hold."""


def refuse_adapter(uri: str, names: Iterable[str]) -> None:
    """Raise ``CheckpointError`` naming the kind of adapter and what takes it; models pass."""
    listed = list(names)
    for kind, pattern in _KINDS:
        factors = [name for name in listed if pattern.search(name)]
        if factors:
            raise CheckpointError(f"{uri}: {_description(kind, listed, factors)}")


def _description(kind: str, names: list[str], factors: list[str]) -> str:
    """Return what the checkpoint is, and what to do; a model that was saved with its adapters keeps its own weights."""
    own_weights = len(names) - len(factors)
    if 2 * own_weights >= len(factors) and any(".base_layer." in name for name in names):
        return (
            f"a model with adapter layers in it ({kind}, see tensor '{factors[0]}'): "
            "merge them into the weights first, with merge_and_unload() of peft"
        )
    finding = f"an adapter ({kind}), not a model, as tensor '{printable(factors[0])}' shows"
    if kind == _PEFT_LORA:
        return (
            f"{finding}: use 'op: adapter' with the path of its folder, which gives the update of the model's weights"
        )
    return f"{finding}: merge it into its model with the tool that made it, and load that"
