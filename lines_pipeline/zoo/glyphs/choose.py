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
from lines_pipeline.zoo.glyphs.likeness import SAME_SHAPE, Distinct, outline
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
    found = Distinct()
    for (low, high), count in SOURCE.items():
        taken = 0
        for code in _shuffled(range(low, high + 1), f"source {low}"):
            if taken < count and _inked(code) and found.likeness(code) < ALIKE:
                found.add(code)
                taken += 1
    return found


class _Seen:
    """Holds what pretraining sees: its characters, and their shapes."""

    def __init__(self, source: Distinct) -> None:
        self.characters = source
        drawn = [outline(code, font) for code in source.codes for font in SOURCE_FONTS if code in characters(font)]
        self.shapes = torch.stack(drawn)


def _meaning(name: str, task: MeaningTask, seen: _Seen) -> dict[str, Any]:
    meaning = task.meaning()
    labels = {ord(letter): label for label, letters in enumerate(meaning.values()) for letter in letters}
    chosen, kept, sizes, taken = Distinct(), dict[int, str](), [0] * len(meaning), seen.shapes[:0]
    for code in _shuffled(labels, name):
        known = task.unseen and seen.characters.likeness(code) >= ALIKE
        if known or sizes[labels[code]] >= CLASS_CHARACTERS or chosen.likeness(code) >= task.alike:
            continue
        found = assign(code, seen.shapes, taken)
        if found is not None:
            chosen.add(code)
            kept[code], taken = found
            sizes[labels[code]] += 1
    return _described(meaning, {code: (labels[code], kept[code]) for code in sorted(kept)})


def _domain(name: str, task: DomainTask, seen: _Seen) -> dict[str, Any]:
    chosen, kept, taken = Distinct(), dict[int, str](), seen.shapes[:0]
    for code in _shuffled(range(task.low, task.high + 1), name):
        known = seen.characters.likeness(code) < ALIKE if task.unseen else code in seen.characters.codes
        if len(kept) < DOMAIN_CLASSES and known and chosen.likeness(code) < ALIKE_IN_DOMAIN:
            found = assign(code, seen.shapes, taken)
            if found is not None:
                chosen.add(code)
                kept[code], taken = found
    ordered = sorted(kept)
    return _described(map(chr, ordered), {code: (label, kept[code]) for label, code in enumerate(ordered)})


def _described(classes: Iterable[str], glyphs: Mapping[int, tuple[int, str]]) -> dict[str, Any]:
    return {
        "classes": list(classes),
        "glyphs": {chr(code): f"{label} {text}" for code, (label, text) in glyphs.items()},
    }


def assign(code: int, seen: torch.Tensor, taken: torch.Tensor) -> tuple[str, torch.Tensor] | None:
    """Return a letter a font, and ``taken`` with the shapes that these drawings add; None for too few shapes.

    The letter is the split's, ``-`` for a font without the character and for a shape that the task has already, be it
    another character's: a shape is in one split. Validation and test have none that pretraining has seen, either.
    """
    letters, count = "", dict.fromkeys(FONTS, 0)
    for split, font in _ordered_fonts():
        known = code in characters(font) and float(draw(code, font).sum()) > _LEAST_INK
        others = [taken, *([seen] if split in ("val", "test") else [])]
        if not known or any(_is_among(outline(code, font), some) for some in others):
            letters += "-"
            continue
        taken = torch.cat([taken, outline(code, font)[None]])
        count[split] += 1
        letters += LETTERS[split]
    return (letters, taken) if all(count[split] >= least for split, least in SHAPES.items()) else None


def _is_among(shape: torch.Tensor, others: torch.Tensor) -> bool:
    return bool(len(others)) and float((others @ shape).max()) >= SAME_SHAPE


def _ordered_fonts() -> Iterator[tuple[str, str]]:
    return ((split, font) for split, fonts in FONTS.items() for font in fonts)


def _inked(code: int) -> bool:
    fonts = [font for font in SOURCE_FONTS if code in characters(font)]
    return bool(fonts) and float(draw(code, fonts[0]).sum()) > _LEAST_INK


def _shuffled(codes: Iterable[int], seed: str) -> list[int]:
    found = list(codes)
    random.Random(seed).shuffle(found)
    return found


if __name__ == "__main__":
    main()
