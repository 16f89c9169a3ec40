"""Checks of finished steps that no single op can make: the files they write, and regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from lines_pipeline.core.types import EdgeType
from lines_pipeline.recipe.graph import Step
from lines_pipeline.recipe.scalars import shortened
from lines_pipeline.recipe.schema import parse_bytes
from lines_pipeline.recipe.validation import Complaint


def step_complaints(steps: Iterable[Step]) -> Iterator[tuple[str, Complaint]]:
    """Node and complaint (path from the node on) for every mistake."""
    written: dict[PurePosixPath, str] = {}
    for step in steps:
        found = [*_patterns(step), *(_output(step, written) if step.op.name == "save" else ())]
        yield from ((step.node, complaint) for complaint in found)


def _output(step: Step, written: dict[PurePosixPath, str]) -> Iterator[Complaint]:
    """Files that would leave the output folder or be written twice, and settings that do not fit."""
    values: dict[str, Any] = step.params.model_dump()
    path = PurePosixPath(values["path"])
    if path.is_absolute() or ".." in path.parts or path.parts[:1] in ((), ("~",)):
        yield Complaint(("path",), f"'path' is '{path}', expected a file inside the run's output folder")
    elif path in written:
        both = f"'{written[path]}' and '{step.id}' both write '{path}'"
        yield Complaint(("path",), f"{both}; give each its own, as with an item in the path")
    written.setdefault(path, step.id)
    if values.get("packed") and step.gives is not EdgeType.MASK:
        yield Complaint(("packed",), f"'packed' is for masks, but '{step.inputs['model'][0]}' gives {step.gives}")
    if values.get("max_shard_size") is not None:
        try:
            parse_bytes(values["max_shard_size"])
        except ValueError as error:
            yield Complaint(("max_shard_size",), str(error))


def _patterns(step: Step) -> Iterator[Complaint]:
    """Regular expressions that are none, or find no block's index."""
    pattern = step.op.layer_pattern(step.params)
    if pattern is not None and pattern != "auto":
        groups = _groups(pattern)
        if isinstance(groups, str):
            yield Complaint(("blocks",), groups)
        elif not groups:
            found = shortened(pattern)
            yield Complaint(("blocks",), rf"expected a group for the block's index, such as (\d+), found '{found}'")
    for index, rule in enumerate(getattr(step.params, "rename", ())):
        groups = _groups(rule.from_)
        if isinstance(groups, str):
            yield Complaint(("rename", index, "from"), groups)
        elif wrong := _wrong_replacement(rule.from_, rule.to):
            yield Complaint(("rename", index, "to"), wrong)


def _wrong_replacement(pattern: str, replacement: str) -> str:
    """What is wrong with the text that a regular expression's matches are replaced by, or nothing."""
    try:
        re.compile(pattern).sub(replacement, "")  # reads the replacement, also where nothing matches
    except (re.error, IndexError) as error:
        return f"expected a replacement for '{shortened(pattern)}', found '{shortened(replacement)}': {error}"
    return ""


def _groups(pattern: str) -> int | str:
    """How many groups a regular expression has, or what is wrong with it."""
    try:
        return re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        return f"expected a regular expression, found '{shortened(pattern)}': {error}"
