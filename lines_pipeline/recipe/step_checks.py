"""Checks of finished steps that no single op can make: the files they write, and regular expressions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from lines_pipeline.core.patterns import Pattern, PatternError
from lines_pipeline.core.types import EdgeType
from lines_pipeline.recipe.graph import Step
from lines_pipeline.recipe.places import Path
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
    patterns = step.op.layer_pattern(step.params)
    if isinstance(patterns, str) and patterns != "auto":
        yield from _block_pattern(patterns, ("blocks",))
    elif isinstance(patterns, tuple):
        for index, text in enumerate(patterns):
            yield from _block_pattern(text, ("blocks", index))
    for index, rule in enumerate(getattr(step.params, "rename", ())):
        try:
            pattern = Pattern(rule.from_)
        except PatternError as error:
            yield Complaint(("rename", index, "from"), str(error))
            continue
        try:
            pattern.check_replacement(rule.to)
        except PatternError as error:
            yield Complaint(("rename", index, "to"), str(error))


def _block_pattern(text: str, path: Path) -> Iterator[Complaint]:
    try:
        groups = Pattern(text).groups
    except PatternError as error:
        yield Complaint(path, str(error))
        return
    if not groups:
        found = shortened(text)
        yield Complaint(path, rf"expected a group for the block's index, such as (\d+), found '{found}'")
