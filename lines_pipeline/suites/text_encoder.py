"""Wraps a transformer as the module that a text suite evaluates: from tokens to features, or to logits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lines_pipeline.suites.text_pooling import POOLS

_POOLER = "pooler"
_MASKS_AS_GIVEN = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Bidirectional models that take a mask [n, 1, tokens, tokens] as it is. So they run under ``vmap``: transformers looks
into a mask [n, tokens]."""


class TextEncoder(nn.Module):
    """Maps tokens [n, inputs, length], in the order of the tokenizer's inputs, to features or logits [n, width]."""

    def __init__(self, model: Any, inputs: Sequence[str], pools: Sequence[str]) -> None:
        super().__init__()
        self.inputs, self.pools, self.place = tuple(inputs), tuple(pools), model.base_model_prefix or "model"
        self.add_module(self.place, model)  # by the prefix that checkpoints with a head have
        own = vars(sys.modules[type(model).__module__])
        reads_both_ways = "create_bidirectional_mask" in own and not getattr(model.config, "is_decoder", False)
        self._whole_masks = model.config.model_type in _MASKS_AS_GIVEN and reads_both_ways

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        inputs = dict(zip(self.inputs, tokens.unbind(1), strict=True))
        mask, model = inputs["attention_mask"], self.get_submodule(self.place)
        if self._whole_masks:
            inputs["attention_mask"] = _whole_mask(mask)
        output = model(**inputs)
        if not self.pools:
            logits: torch.Tensor = output.logits
            return logits
        if self.pools == (_POOLER,):
            features: torch.Tensor = output.pooler_output
            return features
        hidden = output.last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return torch.cat([POOLS[pool](hidden, weight) for pool in self.pools], dim=-1)

    def token_mask(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return [n, length], from tokens as ``forward`` takes them: 0 for padding."""
        return inputs[:, self.inputs.index("attention_mask")]

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors by the names that transformers reads; ``RuntimeError`` names those that do not fit.

        Names may lack or have the prefix of the model within a larger one; tensors beside it (other heads) are not
        used, nor need there be a pooler where features are not made by it.
        """
        model: Any = self.get_submodule(self.place)
        own = {**model.state_dict(keep_vars=True), **dict(model.named_buffers())}
        renamed, unused = _fitted(state, own, f"{self.place}.")
        result = model.load_state_dict(renamed, strict=False, assign=assign)
        model.tie_weights()
        loaded = {id(own[name]) for name in renamed}
        needless = () if self.pools in ((), (_POOLER,)) else (f"{_POOLER}.",)
        missing = [
            name for name in result.missing_keys if id(own[name]) not in loaded and not name.startswith(needless)
        ]
        if missing or unused:
            raise RuntimeError(f"missing tensors {missing[:3]}, unexpected ones {unused[:3]}")
        return result


def _whole_mask(mask: torch.Tensor) -> torch.Tensor:
    """Return what is added to scores [n, 1, tokens, tokens]: 0 for tokens, the lowest number for padding."""
    count = mask.shape[1]
    added = torch.zeros(mask.shape[0], 1, count, count, device=mask.device)
    return added.masked_fill(mask[:, None, None, :] == 0, torch.finfo(added.dtype).min)


def _fitted(state: Mapping[str, Any], own: Mapping[str, torch.Tensor], prefix: str) -> tuple[dict[str, Any], list[str]]:
    """Return the state by the names of a model's tensors, and names that are of no such tensor."""
    by_name = {name: next((n for n in _spellings(name, prefix) if n in own), None) for name in state}
    renamed = {known: state[name] for name, known in by_name.items() if known is not None}
    within = any(known is not None and known != name for name, known in by_name.items())
    unknown = [name for name, known in by_name.items() if known is None]
    return renamed, [name for name in unknown if not within or name.startswith(prefix)]


def _spellings(name: str, prefix: str) -> tuple[str, str, str]:
    return name, name.removeprefix(prefix), prefix + name
