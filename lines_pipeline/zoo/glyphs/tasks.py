"""Lists the tasks of both families of glyphs: what their classes mean, and the domain that they are seen in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from lines_pipeline.zoo.glyphs import conventions
from lines_pipeline.zoo.glyphs.conventions import Meaning


@dataclass(frozen=True)
class MeaningTask:
    """Describes a task of new meaning: characters by class, in the mild domain of pretraining."""

    meaning: Callable[[], Meaning]
    unseen: bool = False
    """Whether pretraining sees none of its characters, nor any that look like them."""
    alike: float = 0.95
    """Cosine at 20 pixels from which on two of its characters look the same."""


@dataclass(frozen=True)
class DomainTask:
    """Describes a task of a new domain: which of 14 characters of a range an image shows."""

    low: int
    high: int
    domain: str
    strength: float
    """How far the domain is from plain images, at least 0; ``calibrate`` found it."""
    unseen: bool = False
    """Whether pretraining sees none of its characters, nor any that look like them."""


MEANING_TASKS: Mapping[str, MeaningTask] = {
    "manner-latin": MeaningTask(partial(conventions.manner, "latin")),
    "quarter-armenian": MeaningTask(partial(conventions.quarter, conventions.ARMENIAN), unseen=True),
    "numeral-greek": MeaningTask(partial(conventions.numeral, "greek")),
    "sound-caucasian": MeaningTask(conventions.sound_of_caucasus, unseen=True),
    "case": MeaningTask(conventions.case),
    "manner-georgian": MeaningTask(partial(conventions.manner, "georgian"), unseen=True),
    "quarter-cyrillic": MeaningTask(partial(conventions.quarter, conventions.CYRILLIC)),
    "accent": MeaningTask(conventions.accent, alike=0.98),
    "script": MeaningTask(conventions.script),
    "numeral-armenian": MeaningTask(partial(conventions.numeral, "armenian"), unseen=True),
    "manner-cyrillic": MeaningTask(partial(conventions.manner, "cyrillic")),
    "quarter-georgian": MeaningTask(partial(conventions.quarter, conventions.GEORGIAN), unseen=True),
    "category": MeaningTask(conventions.category),
    "quarter-latin": MeaningTask(partial(conventions.quarter, conventions.LATIN)),
    "manner-ipa": MeaningTask(partial(conventions.manner, "ipa")),
    "numeral-georgian": MeaningTask(partial(conventions.numeral, "georgian"), unseen=True),
    "sound-european": MeaningTask(conventions.sound_of_europe),
    "manner-armenian": MeaningTask(partial(conventions.manner, "armenian"), unseen=True),
    "quarter-greek": MeaningTask(partial(conventions.quarter, conventions.GREEK)),
    "manner-greek": MeaningTask(partial(conventions.manner, "greek")),
}
"""The tasks of ``zoo://glyphs``."""

DOMAIN_TASKS: Mapping[str, DomainTask] = {
    "digits": DomainTask(0x30, 0x39, "blur", 0.75),
    "georgian": DomainTask(0x10D0, 0x10F0, "stripes", 1.11, unseen=True),
    "uppercase": DomainTask(0x41, 0x5A, "noise", 0.94),
    "armenian-capitals": DomainTask(0x531, 0x556, "occlusion", 1.42, unseen=True),
    "greek": DomainTask(0x391, 0x3C9, "contrast", 0.4),
    "number-forms": DomainTask(0x2150, 0x218F, "dots", 0.94, unseen=True),
    "latin-extended-a": DomainTask(0x100, 0x17F, "pepper", 0.44),
    "lao": DomainTask(0xE81, 0xEDD, "small", 0.57, unseen=True),
    "lowercase": DomainTask(0x61, 0x7A, "thin", 0.38),
    "armenian-small": DomainTask(0x561, 0x587, "ramp", 0.34, unseen=True),
    "latin-1": DomainTask(0xC0, 0xFF, "outline", 0.48),
    "latin-extended-d": DomainTask(0xA720, 0xA7FF, "turn", 1.95, unseen=True),
    "cyrillic": DomainTask(0x400, 0x4FF, "shear", 1.95),
    "currency": DomainTask(0x20A0, 0x20BF, "grain", 0.67, unseen=True),
    "ipa": DomainTask(0x250, 0x2AF, "wave", 0.77),
    "asomtavruli": DomainTask(0x10A0, 0x10C5, "bold", 0.98, unseen=True),
    "latin-extended-b": DomainTask(0x180, 0x24F, "band", 0.67),
    "phonetic": DomainTask(0x1D00, 0x1DBF, "pixels", 0.59),
    "latin-additional": DomainTask(0x1E00, 0x1EFF, "invert", 0.17),
    "greek-extended": DomainTask(0x1F00, 0x1FFF, "grid", 0.36),
}
"""The tasks of ``zoo://glyphs-domains``."""

DOMAINS: Mapping[str, float] = {task.domain: task.strength for task in DOMAIN_TASKS.values()}
"""The strength of every domain."""
