"""Draws glyphs with the fonts that matplotlib ships; each split has fonts of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lines_pipeline.zoo.glyph_tasks import TASKS

CLASSES = 10
CANVAS = 64
"""Width and height of a rendered glyph in pixels, before it is placed in an image."""

FONTS = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "STIXGeneral",
        "STIXGeneralBol",
    ),
    "val": ("DejaVuSansMono-Oblique", "DejaVuSerif-Italic", "STIXGeneralItalic"),
    "test": ("DejaVuSans-BoldOblique", "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic", "STIXGeneralBolIta"),
}
"""Fonts by split: no test font is ever trained on. A font without a glyph is left out for that class."""


@cache
def glyphs(task: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all glyphs of a task in a split's fonts: float32 [n, CANVAS, CANVAS] in 0..1, and int64 labels [n]."""
    drawn = [
        (_draw(code, font), label)
        for label, code in enumerate(codes(task))
        for font in FONTS[split]
        if code in _characters(font)
    ]
    return torch.stack([image for image, _ in drawn]), torch.tensor([label for _, label in drawn])


@cache
def codes(task: str) -> tuple[int, ...]:
    """Return the code points of a task's classes: evenly spread over those that two fonts of each split have."""
    low, high = TASKS[task]
    shared = [code for code in range(low, high + 1) if all(_covered(code, fonts) for fonts in FONTS.values())]
    return tuple(shared[round(i * (len(shared) - 1) / (CLASSES - 1))] for i in range(CLASSES))


def _covered(code: int, fonts: tuple[str, ...]) -> bool:
    return sum(code in _characters(font) for font in fonts) >= min(len(fonts), 2) - (len(fonts) == 3)


def _font_file(font: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


@cache
def _characters(font: str) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    return frozenset(TTFont(_font_file(font)).getBestCmap())


@cache
def _face(font: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_file(font)), 44)


def _draw(code: int, font: str) -> torch.Tensor:
    image = Image.new("L", (CANVAS, CANVAS), 0)
    canvas = ImageDraw.Draw(image)
    left, top, right, bottom = canvas.textbbox((0, 0), chr(code), font=_face(font))
    corner = (CANVAS / 2 - (left + right) / 2, CANVAS / 2 - (top + bottom) / 2)
    canvas.text(corner, chr(code), font=_face(font), fill=255)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)
