"""Gives a checkpoint's tensors other names: prefix normalisation and regular expressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.patterns import Pattern, PatternError
from lines_pipeline.io.checkpoint import Checkpoint


def rename(
    checkpoint: Checkpoint, *, strip: str = "", add: str = "", rules: Sequence[tuple[str, str]] = ()
) -> Checkpoint:
    """Return the checkpoint with names less ``strip``, plus ``add``, changed by (regex, text) ``rules`` in order.

    The checkpoint keeps the names that its files have in ``stored_names``.
    """
    if not (strip or add or rules):
        return checkpoint
    try:
        names = _new_names((*checkpoint.tensors, *checkpoint.aliases, *checkpoint.unreadable), strip, add, rules)
    except (PatternError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.uri}: rename: {error}") from error
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


def _new_names(old: Iterable[str], strip: str, add: str, rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the new name of every tensor; ``ValueError`` for an empty one, and for one that two would have."""
    patterns = [(Pattern(expression), text) for expression, text in rules]
    for pattern, text in patterns:
        pattern.check_replacement(text)
    sources: dict[str, str] = {}
    for name in old:
        new = add + name.removeprefix(strip)
        for pattern, text in patterns:
            new = pattern.sub(text, new)
        if not new:
            raise ValueError(f"'{name}' would have an empty name")
        if new in sources:
            raise ValueError(f"'{name}' and '{sources[new]}' would have the same name '{new}'")
        sources[new] = name
    return {name: new for new, name in sources.items()}
