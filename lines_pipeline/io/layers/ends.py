"""Which end of which tower the tensors outside all blocks are at: by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile

_BEFORE = re.compile(
    r"(^|[._])(embed\w*|pos\w*|tokens?|token_type\w*|cls\w*|class_embedding|patch\w*|stem|conv1|bn1|conv_in|conv_first|"
    r"pre\w*|wte|wpe|shared|register\w*|mask_token|time_\w*|input\w*|in_proj\w*|img_in|txt_in|vector_in)([._]|$)"
)
_AFTER = re.compile(r"(^|[._])(lm_head|head\w*|post\w*|final\w*|classifier|fc|output\w*|out|conv_out|norm_out)([._]|$)")


def is_before_blocks(name: str) -> bool:
    """Return whether a tensor outside the blocks is one that a forward pass takes before them, as embeddings are."""
    return bool(_BEFORE.search(name)) and not _AFTER.search(name)


def nearest_tower(name: str, paths: Mapping[str, str]) -> str:
    """Return the tower, of those whose blocks stand at ``paths``, with which a name has most in common."""
    return max(paths, key=lambda tower: len(_shared(name, paths[tower])))


def _shared(name: str, path: str) -> list[str]:
    """Return the modules that a tensor's name and a tower's path begin with."""
    pairs = zip(name.split("."), path.split("."), strict=False)
    return [module for module, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
