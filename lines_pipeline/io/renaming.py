"""Gives a checkpoint's tensors other names: prefix normalisation and regular expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.checkpoints import Checkpoint


def rename(
    checkpoint: Checkpoint, *, strip: str = "", add: str = "", rules: Sequence[tuple[str, str]] = ()
) -> Checkpoint:
    """Take ``strip`` off names that have it, put ``add`` before all, then apply (regex, text) ``rules`` in order.

    The checkpoint keeps the names that its files have in ``stored_names``.
    """
    if not (strip or add or rules):
        return checkpoint
    patterns = [(_compile(checkpoint, pattern), text) for pattern, text in rules]
    names: dict[str, str] = {}
    for old in (*checkpoint.tensors, *checkpoint.aliases, *checkpoint.unreadable):
        new = add + old.removeprefix(strip)
        for pattern, text in patterns:
            new = pattern.sub(text, new)
        if new in names.values():
            other = next(name for name, renamed in names.items() if renamed == new)
            raise CheckpointError(f"{checkpoint.uri}: renaming gives '{old}' and '{other}' the same name '{new}'")
        names[old] = new
    tensors = {
        names[old]: replace(stored, spec=replace(stored.spec, name=names[old]))
        for old, stored in checkpoint.tensors.items()
    }
    aliases = {names[alias]: names[target] for alias, target in checkpoint.aliases.items()}
    return replace(
        checkpoint,
        tensors=dict(sorted(tensors.items())),
        aliases=dict(sorted(aliases.items())),
        unreadable={names[old]: why for old, why in checkpoint.unreadable.items()},
        stored_names={new: checkpoint.stored_names.get(old, old) for old, new in names.items()},
    )


def _compile(checkpoint: Checkpoint, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise CheckpointError(f"{checkpoint.uri}: bad regular expression '{pattern}' in rename: {error}") from error
