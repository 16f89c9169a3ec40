"""A family of models, and the sizes that several families share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Family:
    """A class of transformers, its configuration, and where the index of a block stands in the names of its files.

    ``towers`` has a pattern, searched in names, for each stack of blocks; its groups count on from stage to stage.
    """

    model: str
    config: str
    settings: Mapping[str, Any]
    towers: Mapping[str, str]

    @property
    def kind(self) -> Any:
        """The model's class."""
        import transformers

        return getattr(transformers, self.model)

    def make(self, seed: int) -> Any:
        """Return a model with random weights."""
        import transformers

        torch.manual_seed(seed)
        return self.kind(getattr(transformers, self.config)(**self.settings))


SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 40, "max_position_embeddings": 16, **SIZES}
PADDED = {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**PADDED, "num_key_value_heads": 1, "head_dim": 8}
IMAGE = {"image_size": 8, "patch_size": 4, **SIZES}
STACKS = {"encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
LAYERS = {"layers": r"\.layers\.(\d+)\."}
LAYER = {"encoder": r"\.layer\.(\d+)\."}
TWO_STACKS = {"encoder": r"encoder\.layers\.(\d+)\.", "decoder": r"decoder\.layers\.(\d+)\."}
