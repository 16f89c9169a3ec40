"""Gives tied tensors names that stay, where a recipe drops some of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lines_pipeline.io.checkpoint import Checkpoint


def keep_ties(checkpoint: Checkpoint, is_dropped: Callable[[str], bool]) -> Checkpoint:
    """Return the checkpoint in which each tied tensor that loses a name goes by its first name that stays."""
    heirs: dict[str, str] = {}
    for alias, name in sorted(checkpoint.aliases.items()):
        if is_dropped(name) and not is_dropped(alias):
            heirs.setdefault(name, alias)
    if not heirs:
        return checkpoint
    tensors = {
        heirs.get(name, name): replace(stored, spec=replace(stored.spec, name=heirs.get(name, name)))
        for name, stored in checkpoint.tensors.items()
    }
    aliases = {
        alias: heirs.get(name, name) for alias, name in checkpoint.aliases.items() if alias not in heirs.values()
    }
    aliases |= heirs
    return replace(checkpoint, tensors=dict(sorted(tensors.items())), aliases=dict(sorted(aliases.items())))
