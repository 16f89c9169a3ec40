"""Draws characters with the fonts that matplotlib ships; each split has fonts of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

CANVAS = 64
"""Width and height of a drawing in pixels, before it is placed in an image."""
_POINTS = 44

FONTS: Mapping[str, tuple[str, ...]] = {
    "reference": ("DejaVuSans", "DejaVuSerif", "STIXGeneral"),
    "train": (
        "DejaVuSans-Bold",
        "DejaVuSansMono",
        "DejaVuSansMono-Oblique",
        "DejaVuSerif-Italic",
        "DejaVuSerif-Bold",
        "STIXGeneralItalic",
    ),
    "val": ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "STIXGeneralBol"),
    "test": ("DejaVuSans-BoldOblique", "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic", "STIXGeneralBolIta"),
}
"""Fonts by split. Heads are made of ``reference``; pretraining draws with ``reference`` and ``train``."""

SOURCE_FONTS = (*FONTS["reference"], *FONTS["train"])


@cache
def characters(font: str) -> frozenset[int]:
    """Return the code points that a font has."""
    from fontTools.ttLib import TTFont

    return frozenset(TTFont(font_file(font)).getBestCmap())


def draw(code: int, font: str) -> torch.Tensor:
    """Return a character in the middle of a canvas: float32 [CANVAS, CANVAS] in 0..1."""
    image = Image.new("L", (CANVAS, CANVAS), 0)
    canvas = ImageDraw.Draw(image)
    left, top, right, bottom = canvas.textbbox((0, 0), chr(code), font=_face(font))
    corner = (CANVAS / 2 - (left + right) / 2, CANVAS / 2 - (top + bottom) / 2)
    canvas.text(corner, chr(code), font=_face(font), fill=255)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)


def font_file(font: str) -> Path:
    """Return the file of a font that matplotlib ships."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


@cache
def _face(font: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_file(font)), _POINTS, layout_engine=ImageFont.Layout.BASIC)
