"""Reads which characters make a task, and draws them: the drawings of every split, by class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lines_pipeline.zoo.glyphs.fonts import FONTS, SOURCE_FONTS, characters, draw

LETTERS: Mapping[str, str] = {"reference": "r", "train": "t", "val": "v", "test": "e"}
"""What ``drawings.json`` writes for the split of a drawing."""
_EVERY_FONT = tuple(font for fonts in FONTS.values() for font in fonts)


@dataclass(frozen=True)
class Drawings:
    """Holds the distinct shapes of one task and split."""

    canvas: torch.Tensor
    """float32 [n, CANVAS, CANVAS] in 0..1."""
    labels: torch.Tensor
    """int64 [n]."""
    glyphs: torch.Tensor
    """int32 [n]: the character that each one shows, as its code point."""
    shapes: torch.Tensor
    """int32 [n]: a number for each character in a font."""


@cache
def task_drawings(family: str, task: str, split: str) -> Drawings:
    """Return the drawings of a task in a split; validation and test have no shape of another split."""
    named = [
        (code, font, label)
        for code, (label, letters) in task_glyphs(family, task).items()
        for font, letter in enumerate(letters)
        if letter == LETTERS[split]
    ]
    return Drawings(
        torch.stack([draw(code, _EVERY_FONT[font]) for code, font, _ in named]),
        torch.tensor([label for _, _, label in named]),
        torch.tensor([code for code, _, _ in named], dtype=torch.int32),
        torch.tensor([code * len(_EVERY_FONT) + font for code, font, _ in named], dtype=torch.int32),
    )


def task_classes(family: str, task: str) -> tuple[str, ...]:
    """Return the names of a task's classes."""
    return tuple(_content()[family][task]["classes"])


def task_glyphs(family: str, task: str) -> dict[int, tuple[int, str]]:
    """Return the characters of a task: the class of each, and a letter a font that tells the split of its drawing."""
    glyphs = {}
    for character, text in _content()[family][task]["glyphs"].items():
        label, letters = text.split()
        glyphs[ord(character)] = (int(label), letters)
    return glyphs


def source_codes() -> tuple[int, ...]:
    """Return the characters that pretraining names."""
    return tuple(_content()["source"])


def source_drawings() -> tuple[torch.Tensor, torch.Tensor]:
    """Return all drawings of pretraining, float32 [n, CANVAS, CANVAS], and their classes, int64 [n]."""
    named = [(code, font, label) for label, code in enumerate(source_codes()) for font in SOURCE_FONTS]
    drawn = [(draw(code, font), label) for code, font, label in named if code in characters(font)]
    return torch.stack([canvas for canvas, _ in drawn]), torch.tensor([label for _, label in drawn])


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(__file__).parent / "drawings.json").read_text(encoding="utf-8"))
    return content
