"""Tells how many tokens a model makes of a sample, from its tables of positions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lines_pipeline.ops.schemas.schema import Schema

_POSITIONS = re.compile(r"(^|[._])(wpe|pos(ition(al|s)?)?_embed(ding)?s?|embed_positions)(\.weight)?$")


@dataclass(frozen=True)
class TokenCounts:
    """Holds how many positions there are, by the name of their table: of images all are used, of texts at most all."""

    tables: Mapping[str, int]

    @classmethod
    def of(cls, model: Schema) -> TokenCounts:
        """Find the tables of a model, [tokens, width] or [1, tokens, width], by their usual names."""
        shapes = {name: spec.shape for name, spec in model.tensors.items() if _POSITIONS.search(name)}
        return cls({name: math.prod(shape[:-1]) for name, shape in shapes.items() if len(shape) > 1})

    def at(self, name: str) -> int:
        """Return the positions in the table whose path a tensor's name shares longest; 1 where there is none."""
        return max(((_shared(name, table), count) for table, count in self.tables.items()), default=(0, 1))[1]


def _shared(name: str, other: str) -> int:
    """Return how many leading parts two names have in common."""
    parts = list(zip(name.split("."), other.split("."), strict=False))
    return next((number for number, (left, right) in enumerate(parts) if left != right), len(parts))
