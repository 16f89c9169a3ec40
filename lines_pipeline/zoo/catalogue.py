"""Lists the zoos and their checkpoints, their URLs and files, without building anything."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.io.entries import read_entry
from lines_pipeline.io.write_once import noted_once, notes_path
from lines_pipeline.zoo.entries import Address, Zoo, ZooEntry
from lines_pipeline.zoo.glyphs.zoo import GLYPH_ZOOS
from lines_pipeline.zoo.texts.zoo import TextZoo

_EVERY_ZOO: tuple[Zoo, ...] = (*GLYPH_ZOOS, TextZoo())
ZOOS: Mapping[str, Zoo] = {zoo.name: zoo for zoo in _EVERY_ZOO}
"""Zoos by the word after ``zoo://``."""


def parse(uri: str) -> Address:
    """Return the parts of ``zoo://<zoo>[@choices][/name]``; ``CheckpointError`` for anything else."""
    match = re.fullmatch(r"zoo://([^/@]+)(?:@([^/]*))?(?:/(.*))?", uri)
    if not match or match[1] not in ZOOS:
        hint = did_you_mean(match[1], ZOOS) if match else ""
        raise CheckpointError(f"{uri}: unknown zoo{hint}, expected zoo://<zoo> or zoo://<zoo>/<name>, with {_known()}")
    return Address(uri, match[1], tuple(match[2].split("-")) if match[2] is not None else (), match[3])


def locate(uri: str) -> ZooEntry:
    """Return where a checkpoint of a zoo lies; build nothing."""
    address = parse(uri)
    return ZOOS[address.zoo].locate(address)


def is_sound(entry: ZooEntry) -> bool:
    """Return whether an expert's file is as it was built; reads all of it, once a process. What ships always is."""
    return entry.task is None or (entry.built and read_entry(notes_path(entry.path)) == noted_once(entry.path))


def _known() -> str:
    return " or ".join(ZOOS)
