"""Chooses the characters of pretraining and of all tasks, and the split of every drawing.

``python -m lines_pipeline.zoo.glyphs.choose`` writes ``drawings.json``. The file ships, so that tasks don't hang on the
versions of the libraries that draw.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lines_pipeline.zoo.glyphs.drawings import LETTERS
from lines_pipeline.zoo.glyphs.fonts import FONTS, SOURCE_FONTS, characters, draw
from lines_pipeline.zoo.glyphs.likeness import SAME_SHAPE, Distinct, curves, outline
from lines_pipeline.zoo.glyphs.tasks import DOMAIN_TASKS, MEANING_TASKS, DomainTask, MeaningTask

ALIKE, ALIKE_IN_DOMAIN = 0.95, 0.93
"""Cosines at 20 pixels from which on two characters look the same: in the mild domain, in another one."""
DOMAIN_CLASSES, CLASS_CHARACTERS = 14, 16
"""Classes of a task of a new domain, and characters of a class of meaning, at most."""
SHAPES = {"reference": 1, "train": 2, "val": 1, "test": 2}
"""Shapes that a character needs in each split."""
SOURCE: Mapping[tuple[int, int], int] = {
    (0x30, 0x39): 10,
    (0x41, 0x5A): 26,
    (0x61, 0x7A): 26,
    (0x391, 0x3C9): 50,
    (0x410, 0x44F): 50,
    (0x250, 0x2AF): 70,
    (0xC0, 0xFF): 25,
    (0x100, 0x17F): 30,
    (0x180, 0x24F): 25,
    (0x400, 0x4FF): 20,
    (0x1D00, 0x1DBF): 28,
    (0x1E00, 0x1EFF): 28,
    (0x1F00, 0x1FFF): 28,
    (0x1400, 0x167F): 30,
    (0x621, 0x6D3): 14,
    (0x5D0, 0x5EA): 10,
    (0x7CA, 0x7EA): 10,
    (0x2D30, 0x2D6F): 15,
    (0x2700, 0x27BF): 20,
    (0x2300, 0x23FF): 14,
    (0x2A00, 0x2AFF): 12,
    (0x2010, 0x205E): 8,
    (0x2600, 0x26FF): 10,
    (0x25A0, 0x25FF): 8,
    (0x2190, 0x21FF): 10,
    (0x2200, 0x22FF): 14,
}
"""Blocks of characters that pretraining names, and how many of each at most."""
_LEAST_INK = 10.0


def main() -> None:
    """Choose and write."""
    source = source_codes()
    seen = _Seen(source)
    content = {
        "source": source.codes,
        "glyphs": {name: _meaning(name, task, seen) for name, task in MEANING_TASKS.items()},
        "glyphs-domains": {name: _domain(name, task, seen) for name, task in DOMAIN_TASKS.items()},
    }
    lines = json.dumps(content, ensure_ascii=False, indent=1)
    (Path(__file__).parent / "drawings.json").write_text(lines + "\n", encoding="utf-8")


def source_codes() -> Distinct:
    """Return the characters of pretraining: unlike each other in every font."""
    chosen = Distinct()
    for (low, high), count in SOURCE.items():
        taken = 0
        for code in _shuffled(range(low, high + 1), f"source {low}"):
            if taken < count and _inked(code) and chosen.likeness(code) < ALIKE:
                chosen.add(code)
                taken += 1
    return chosen


class _Seen:
    """Holds what pretraining sees: its characters, and their shapes."""

    def __init__(self, source: Distinct) -> None:
        self.characters = source
        drawn = [outline(code, font) for code in source.codes for font in SOURCE_FONTS if code in characters(font)]
        self.shapes = torch.stack(drawn)


def _meaning(name: str, task: MeaningTask, seen: _Seen) -> dict[str, Any]:
    meaning = task.meaning()
    labels = {ord(letter): label for label, letters in enumerate(meaning.values()) for letter in letters}
    chosen, kept, sizes, taken = Distinct(), dict[int, str](), [0] * len(meaning), Taken()
    for code in _shuffled(labels, name):
        known = task.unseen and seen.characters.likeness(code) >= ALIKE
        if known or sizes[labels[code]] >= CLASS_CHARACTERS or chosen.likeness(code) >= task.alike:
            continue
        letters = assign(code, seen.shapes, taken)
        if letters is not None:
            chosen.add(code)
            kept[code] = letters
            sizes[labels[code]] += 1
    return _described(meaning, {code: (labels[code], kept[code]) for code in sorted(kept)})


def _domain(name: str, task: DomainTask, seen: _Seen) -> dict[str, Any]:
    chosen, kept, taken = Distinct(), dict[int, str](), Taken()
    for code in _shuffled(range(task.low, task.high + 1), name):
        known = seen.characters.likeness(code) < ALIKE if task.unseen else code in seen.characters.codes
        if len(kept) < DOMAIN_CLASSES and known and chosen.likeness(code) < ALIKE_IN_DOMAIN:
            letters = assign(code, seen.shapes, taken)
            if letters is not None:
                chosen.add(code)
                kept[code] = letters
    ordered = sorted(kept)
    return _described(map(chr, ordered), {code: (label, kept[code]) for label, code in enumerate(ordered)})


def _described(classes: Iterable[str], glyphs: Mapping[int, tuple[int, str]]) -> dict[str, Any]:
    return {
        "classes": list(classes),
        "glyphs": {chr(code): f"{label} {text}" for code, (label, text) in glyphs.items()},
    }


class Taken:
    """Holds the shapes that a task has: their outlines, and the curves that font files have for them."""

    def __init__(self) -> None:
        self.outlines: list[torch.Tensor] = []
        self.curves: set[str] = set()

    def joined(self, other: Taken) -> None:
        """Add the shapes of another."""
        self.outlines += other.outlines
        self.curves |= other.curves

    def has(self, code: int, font: str) -> bool:
        """Return whether a drawing is one of these shapes."""
        return curves(code, font) in self.curves or _is_among(outline(code, font), self.outlines)

    def add(self, code: int, font: str) -> None:
        """Add a drawing's shape."""
        self.outlines.append(outline(code, font))
        self.curves.add(curves(code, font))


def assign(code: int, seen: torch.Tensor, taken: Taken) -> str | None:
    """Return a letter a font, and add these drawings' shapes to ``taken``; None for too few shapes, which adds none.

    The letter is the split's, ``-`` for a font without the character and for a shape that the task has already, be it
    another character's: a shape is in one split. Validation and test have none that pretraining has seen, either.
    """
    letters, count, own = "", dict.fromkeys(FONTS, 0), Taken()
    for split, font in _ordered_fonts():
        known = code in characters(font) and float(draw(code, font).sum()) > _LEAST_INK
        elsewhere = known and (taken.has(code, font) or own.has(code, font))
        if not known or elsewhere or (split in ("val", "test") and _most(outline(code, font), seen) >= SAME_SHAPE):
            letters += "-"
            continue
        own.add(code, font)
        count[split] += 1
        letters += LETTERS[split]
    if any(count[split] < least for split, least in SHAPES.items()):
        return None
    taken.joined(own)
    return letters


def _is_among(shape: torch.Tensor, others: list[torch.Tensor]) -> bool:
    return bool(others) and _most(shape, torch.stack(others)) >= SAME_SHAPE


def _most(shape: torch.Tensor, others: torch.Tensor) -> float:
    return float((others @ shape).max())


def _ordered_fonts() -> Iterator[tuple[str, str]]:
    return ((split, font) for split, fonts in FONTS.items() for font in fonts)


def _inked(code: int) -> bool:
    fonts = [font for font in SOURCE_FONTS if code in characters(font)]
    return bool(fonts) and float(draw(code, fonts[0]).sum()) > _LEAST_INK


def _shuffled(codes: Iterable[int], seed: str) -> list[int]:
    shuffled = list(codes)
    random.Random(seed).shuffle(shuffled)
    return shuffled


if __name__ == "__main__":
    main()
