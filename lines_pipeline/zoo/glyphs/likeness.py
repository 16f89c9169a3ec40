"""Compares drawings: which characters look alike in a font, and which drawings are one shape."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from lines_pipeline.zoo.glyphs.fonts import SOURCE_FONTS, characters, draw, font_file

SAME_SHAPE = 0.99
"""Cosine of two outlines from which on they are one shape."""
_SIDE = 20


@cache
def thumbnail(code: int, font: str) -> torch.Tensor:
    """Return a drawing at the size of an image, at unit length: float32 [400]."""
    return _unit(functional.adaptive_avg_pool2d(draw(code, font)[None], _SIDE))


@cache
def outline(code: int, font: str) -> torch.Tensor:
    """Return a drawing's ink, cut out and scaled to one size (its proportions kept), at unit length: float32 [400]."""
    ink = draw(code, font)
    rows, columns = (ink.amax(1) > 0.5).nonzero()[:, 0], (ink.amax(0) > 0.5).nonzero()[:, 0]
    if not len(rows):
        return torch.zeros(_SIDE * _SIDE)
    ink = ink[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    side = max(ink.shape)
    padded = functional.pad(ink, _margins(side - ink.shape[1]) + _margins(side - ink.shape[0]))
    scaled = functional.interpolate(padded[None, None], (_SIDE, _SIDE), mode="bilinear", antialias=True)
    return _unit(scaled)


@cache
def curves(code: int, font: str) -> str:
    """Return a digest of the curves that a font's file has for a character, wherever they stand in their box."""
    from fontTools.pens.recordingPen import DecomposingRecordingPen

    glyphs, names = _font(font)
    pen = DecomposingRecordingPen(glyphs)
    glyphs[names[code]].draw(pen)
    points = [point for _, step in pen.value for point in step if point is not None]
    left, bottom = min(point[0] for point in points), min(point[1] for point in points)
    moved = [(name, [point and (point[0] - left, point[1] - bottom) for point in step]) for name, step in pen.value]
    return hashlib.blake2b(repr(moved).encode(), digest_size=16).hexdigest()


@cache
def _font(font: str) -> tuple[Any, Any]:
    from fontTools.ttLib import TTFont

    opened = TTFont(font_file(font))
    return opened.getGlyphSet(), opened.getBestCmap()


class Distinct:
    """Collects characters; says how like a further one is to them, drawn in the same font."""

    def __init__(self, codes: Iterable[int] = ()) -> None:
        self.codes: list[int] = []
        self._rows = {font: torch.zeros(0, _SIDE * _SIDE) for font in SOURCE_FONTS}
        for code in codes:
            self.add(code)

    def likeness(self, code: int) -> float:
        """Return the largest cosine of a character with one of these in any font of pretraining."""
        shared = [font for font in SOURCE_FONTS if code in characters(font) and len(self._rows[font])]
        cosines = [float((self._rows[font] @ thumbnail(code, font)).max()) for font in shared]
        return max(cosines, default=0.0)

    def add(self, code: int) -> None:
        """Add a character."""
        self.codes.append(code)
        for font in SOURCE_FONTS:
            if code in characters(font):
                self._rows[font] = torch.cat([self._rows[font], thumbnail(code, font)[None]])


def _unit(image: torch.Tensor) -> torch.Tensor:
    return functional.normalize(image.flatten(), dim=0, eps=1e-6)


def _margins(pixels: int) -> list[int]:
    return [pixels // 2, pixels - pixels // 2]
