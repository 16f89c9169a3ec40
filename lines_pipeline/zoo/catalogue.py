"""Lists the checkpoints of the zoo, their URLs and files, without building anything."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError, did_you_mean
from lines_pipeline.io.entries import read_entry
from lines_pipeline.io.write_once import noted_once, notes_path

ZOO_VERSION = "1"
"""Raise it when the model, the tasks, the data or the training change: experts are then built anew."""

TASKS: Mapping[str, tuple[int, int]] = {
    "uppercase": (0x41, 0x5A),
    "lowercase": (0x61, 0x7A),
    "digits": (0x30, 0x39),
    "latin-1": (0xC0, 0xFF),
    "latin-extended-a": (0x100, 0x17F),
    "latin-extended-b": (0x180, 0x24F),
    "ipa": (0x250, 0x2AF),
    "greek": (0x391, 0x3C9),
    "cyrillic": (0x410, 0x44F),
    "armenian": (0x531, 0x587),
    "georgian": (0x10D0, 0x10F0),
    "currency": (0x20A0, 0x20B5),
    "letterlike": (0x2100, 0x214B),
    "number-forms": (0x2153, 0x2188),
    "arrows": (0x2190, 0x21FF),
    "math-operators": (0x2200, 0x22FF),
    "technical": (0x2300, 0x23FF),
    "box-drawing": (0x2500, 0x257F),
    "geometric-shapes": (0x25A0, 0x25FF),
    "symbols": (0x2600, 0x26FF),
}
"""Task to the range of Unicode code points that its classes are drawn from; the order numbers the visual domains."""

WEIGHTS = Path(__file__).parent / "weights"
PRETRAINED, HEADS = WEIGHTS / "pretrained.safetensors", WEIGHTS / "heads.safetensors"


@dataclass(frozen=True)
class ZooEntry:
    """Describes a checkpoint of the zoo: its URL, its file, and a file that exists and has the same names and shapes.

    ``built`` is whether its file is there, and the note of its digest; see ``is_sound`` for its content.
    """

    uri: str
    path: Path
    built: bool
    template: Path
    task: str | None
    seed: int


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/lines-pipeline`` (``~/.cache/lines-pipeline``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lines-pipeline"


def parse(uri: str) -> tuple[int, str | None]:
    """Return seed and checkpoint name of ``zoo://glyphs[@seedN][/name]``; ``CheckpointError`` for anything else."""
    match = re.fullmatch(r"zoo://([^/@]+)(?:@([^/]*))?(?:/(.*))?", uri)
    if not match or match[1] != "glyphs":
        raise CheckpointError(f"{uri}: unknown zoo, expected zoo://glyphs or zoo://glyphs/<task>")
    seed = re.fullmatch(r"seed(\d+)", match[2] or "seed0")
    if not seed:
        raise CheckpointError(f"{uri}: expected a seed such as zoo://glyphs@seed1, got '@{match[2]}'")
    return int(seed[1]), match[3]


def locate(uri: str) -> ZooEntry:
    """Return where a checkpoint of the zoo lies; build nothing."""
    seed, name = parse(uri)
    if name == "pretrained":
        return ZooEntry(uri, PRETRAINED, True, PRETRAINED, None, seed)
    if name is None or name not in TASKS:
        known = ", ".join(["pretrained", *TASKS])
        raise CheckpointError(f"{uri}: the zoo has no '{name or ''}'{did_you_mean(name or '', TASKS)}. It has: {known}")
    path = experts_folder(seed) / f"{name}.safetensors"
    return ZooEntry(uri, path, path.is_file() and notes_path(path).is_file(), PRETRAINED, name, seed)


def is_sound(entry: ZooEntry) -> bool:
    """Return whether an expert's file is as it was built; reads all of it, once a process. What ships always is."""
    return entry.task is None or (entry.built and read_entry(notes_path(entry.path)) == noted_once(entry.path))


def experts_folder(seed: int) -> Path:
    """Return the folder with the experts of one seed."""
    return cache_folder() / "zoo" / f"glyphs-v{ZOO_VERSION}-seed{seed}"
