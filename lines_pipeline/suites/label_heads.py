"""Makes frozen heads of label names: a class's row is the embedding of its texts by the base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

import torch
from torch import nn
from torch.nn import functional

ClassTexts = tuple[tuple[str, ...], ...]
"""The texts that stand for each class."""


@dataclass(frozen=True)
class LabelEmbedder:
    """Embeds label names by a base, which is loaded when it is needed first; equal keys mean equal embeddings."""

    key: str
    tokens: Callable[[list[str]], torch.Tensor] = field(compare=False, repr=False)
    base: Callable[[], nn.Module] = field(compare=False, repr=False)

    def rows(self, tasks: tuple[ClassTexts, ...]) -> tuple[torch.Tensor, ...]:
        """Return for each task [classes, features]: unit rows, each the direction of the mean of unit embeddings."""
        return _rows(self, tasks)


@lru_cache(maxsize=8)
@torch.no_grad()
def _rows(embedder: LabelEmbedder, tasks: tuple[ClassTexts, ...]) -> tuple[torch.Tensor, ...]:
    module = embedder.base()
    return tuple(_class_rows(embedder, module, texts) for texts in tasks)


def _class_rows(embedder: LabelEmbedder, module: nn.Module, texts: ClassTexts) -> torch.Tensor:
    """Embed one batch a task, so that a task's head does not depend on what other tasks there are."""
    features = module(embedder.tokens([text for of_class in texts for text in of_class]))
    units = functional.normalize(features.float(), dim=-1)
    ends = list(accumulate(map(len, texts)))
    means = [units[end - len(of_class) : end].mean(0) for of_class, end in zip(texts, ends, strict=True)]
    return functional.normalize(torch.stack(means), dim=-1)
