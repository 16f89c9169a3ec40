"""Lists the tasks of ``zoo://glyphs``, and where its weights lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lines_pipeline.zoo.entries import cache_folder

ZOO_VERSION = "1"
"""Raise it when the model, the tasks, the data or the training change: experts are then built anew."""

EXPERT_STEPS = 200
"""Optimiser steps of an expert."""

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


def experts_folder(seed: int) -> Path:
    """Return the folder with the experts of one seed."""
    return cache_folder() / "zoo" / f"glyphs-v{ZOO_VERSION}-seed{seed}"
