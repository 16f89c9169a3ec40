"""The drawings of tasks: classes that look different, splits that share no shape, characters that are unseen."""

from __future__ import annotations

import pytest
import torch

from lines_pipeline.zoo.glyphs.bases import BASES
from lines_pipeline.zoo.glyphs.choose import ALIKE, ALIKE_IN_DOMAIN, CLASS_CHARACTERS, SHAPES
from lines_pipeline.zoo.glyphs.drawings import LETTERS, source_codes, task_classes, task_drawings, task_glyphs
from lines_pipeline.zoo.glyphs.fonts import FONTS, SOURCE_FONTS, characters, font_file
from lines_pipeline.zoo.glyphs.likeness import SAME_SHAPE, Distinct, curves, outline, thumbnail
from lines_pipeline.zoo.glyphs.tasks import DOMAIN_TASKS, MEANING_TASKS

EVERY_FONT = tuple(font for fonts in FONTS.values() for font in fonts)
TASKS = [("glyphs", task) for task in MEANING_TASKS] + [("glyphs-domains", task) for task in DOMAIN_TASKS]
UNSEEN = [("glyphs", name) for name, task in MEANING_TASKS.items() if task.unseen] + [
    ("glyphs-domains", name) for name, task in DOMAIN_TASKS.items() if task.unseen
]
PICKED = [TASKS[0], TASKS[3], TASKS[12], TASKS[20], TASKS[25]]


def outlines(family: str, task: str, split: str) -> torch.Tensor:
    """The outlines of a split's shapes, drawn anew: [n, 400]."""
    named = [
        (code, font)
        for code, (_, letters) in task_glyphs(family, task).items()
        for font, letter in zip(EVERY_FONT, letters, strict=True)
        if letter == LETTERS[split]
    ]
    return torch.stack([outline(code, font) for code, font in named])


def test_no_font_serves_two_splits_and_pretraining_has_none_of_validation_and_test() -> None:
    assert len(EVERY_FONT) == len(set(EVERY_FONT)) == 16
    assert not set(SOURCE_FONTS) & {*FONTS["val"], *FONTS["test"]}
    assert all(font_file(font).is_file() for font in EVERY_FONT)


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_a_task_has_enough_shapes_of_every_character_and_class(family: str, task: str) -> None:
    glyphs, classes = task_glyphs(family, task), task_classes(family, task)
    assert {label for label, _ in glyphs.values()} == set(range(len(classes)))
    assert 3 <= len(classes) <= 16
    for _, letters in glyphs.values():
        assert len(letters) == len(EVERY_FONT)
        assert all(letters.count(LETTERS[split]) >= least for split, least in SHAPES.items())
        for split, fonts in FONTS.items():
            start = EVERY_FONT.index(fonts[0])
            assert set(letters[start : start + len(fonts)]) <= {LETTERS[split], "-"}
    sizes = [sum(label == one for label, _ in glyphs.values()) for one in range(len(classes))]
    assert max(sizes) <= CLASS_CHARACTERS


@pytest.mark.parametrize(("family", "task"), PICKED)
def test_no_shape_is_in_two_splits(family: str, task: str) -> None:
    own = {split: outlines(family, task, split) for split in FONTS}
    together = torch.cat(list(own.values()))
    assert float((together @ together.T).fill_diagonal_(0).max()) < SAME_SHAPE


@pytest.mark.parametrize(("family", "task"), TASKS)
def test_no_outline_of_a_font_file_is_in_two_splits(family: str, task: str) -> None:
    split_of: dict[str, set[str]] = {}
    for code, (_, letters) in task_glyphs(family, task).items():
        for font, letter in zip(EVERY_FONT, letters, strict=True):
            if letter != "-":
                split_of.setdefault(curves(code, font), set()).add(letter)
    assert len(split_of) > 100 and all(len(splits) == 1 for splits in split_of.values())


@pytest.mark.parametrize(("family", "task"), PICKED)
def test_no_two_characters_of_a_task_look_alike(family: str, task: str) -> None:
    codes = list(task_glyphs(family, task))
    limit = ALIKE_IN_DOMAIN if family == "glyphs-domains" else MEANING_TASKS[task].alike
    for font in SOURCE_FONTS:
        drawn = [thumbnail(code, font) for code in codes if code in characters(font)]
        if len(drawn) > 1:
            found = torch.stack(drawn)
            assert float((found @ found.T).fill_diagonal_(0).max()) < limit + 1e-6


@pytest.mark.slow
def test_pretraining_has_seen_none_of_the_characters_of_six_tasks_a_family() -> None:
    source = Distinct(source_codes())
    assert len(source.codes) == len(set(source.codes)) > 500
    for family in ("glyphs", "glyphs-domains"):
        tasks = [task for one, task in UNSEEN if one == family]
        assert len(tasks) >= 6
        for task in tasks:
            assert all(source.likeness(code) < ALIKE for code in task_glyphs(family, task))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "task"), PICKED)
def test_pretraining_has_seen_no_shape_of_validation_and_test(family: str, task: str) -> None:
    codes = [(code, font) for code in source_codes() for font in SOURCE_FONTS if code in characters(font)]
    seen = torch.stack([outline(code, font) for code, font in codes])
    for split in ("val", "test"):
        assert float((outlines(family, task, split) @ seen.T).max()) < SAME_SHAPE


def test_drawings_tell_their_character_and_shape() -> None:
    drawn = task_drawings("glyphs", "manner-latin", "test")
    assert drawn.canvas.shape[1:] == (64, 64) and bool((drawn.canvas.flatten(1).amax(1) > 0.5).all())
    assert len(set(drawn.shapes.tolist())) == len(drawn.shapes) > 100
    assert torch.equal(drawn.shapes // len(EVERY_FONT), drawn.glyphs)
    letters = {chr(code): label for code, label in zip(drawn.glyphs.tolist(), drawn.labels.tolist(), strict=True)}
    assert task_classes("glyphs", "manner-latin")[letters["A"]] == "vowel"
    assert task_classes("glyphs", "manner-latin")[letters["K"]] == "stop"
    assert BASES == 3
