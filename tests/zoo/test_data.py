"""The images: distinct classes, fonts apart by split, the same for everyone."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
import torch

from lines_pipeline.zoo.domains import DOMAINS, place, render_domain
from lines_pipeline.zoo.glyph_tasks import TASKS
from lines_pipeline.zoo.rendering import CLASSES, FONTS, codes, glyphs
from lines_pipeline.zoo.splits import SPLIT_IMAGES, split_images
from lines_pipeline.zoo.training import pretraining_batch, task_batch


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_font_serves_two_splits_and_none_is_the_last_resort() -> None:
    every = [font for fonts in FONTS.values() for font in fonts]
    assert len(every) == len(set(every))
    assert not [font for font in every if "LastResort" in font]
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    assert all((folder / f"{font}.ttf").is_file() for font in every)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_ten_characters_of_its_range(task: str) -> None:
    low, high = TASKS[task]
    assert len(set(codes(task))) == CLASSES
    assert all(low <= code <= high for code in codes(task))


@pytest.mark.parametrize("split", FONTS)
@pytest.mark.parametrize("task", TASKS)
def test_every_class_is_drawn_in_every_split(task: str, split: str) -> None:
    canvas, labels = glyphs(task, split)
    assert set(labels.tolist()) == set(range(CLASSES))
    assert bool((canvas.flatten(1).amax(1) > 0.5).all())


@pytest.mark.parametrize("task", TASKS)
def test_no_two_classes_look_alike_in_training(task: str) -> None:
    canvas, labels = glyphs(task, "train")
    equal = torch.cdist(canvas.flatten(1), canvas.flatten(1)) < 1e-3
    assert not bool((equal & (labels[:, None] != labels[None])).any())


def test_a_split_is_the_same_for_everyone_and_unlike_the_other() -> None:
    images, labels = split_images("greek", "val")
    assert images.shape == (SPLIT_IMAGES, 1, 20, 20)
    split_images.cache_clear()
    again, labels_again = split_images("greek", "val")
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert not torch.equal(images, split_images("greek", "test")[0])


def test_a_batch_follows_its_generator() -> None:
    first, second = (task_batch("arrows", "train", 8, seeded(3)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], task_batch("arrows", "train", 8, seeded(4))[0])


def test_domains_differ_and_odd_ones_are_inverted() -> None:
    plain = place(glyphs("uppercase", "train")[0][:8], seeded(0))
    rendered = [render_domain(plain, domain, seeded(1)) for domain in range(DOMAINS)]
    assert all(images.shape == plain.shape for images in rendered)
    noise, inverted_noise = rendered[0], rendered[5]
    assert float(noise.mean()) < 0.4 < 0.5 < float(inverted_noise.mean())
    assert all(not torch.equal(rendered[i], rendered[i + 1]) for i in range(DOMAINS - 1))


def test_pretraining_confuses_half_of_the_labels_with_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    _, confused = pretraining_batch(2048, seeded(5))
    monkeypatch.setattr("lines_pipeline.zoo.training.CONFUSED_FRACTION", 0.0)
    _, true = pretraining_batch(2048, seeded(5))
    changed = confused != true
    assert 0.45 < float(changed.float().mean()) < 0.55
    assert torch.equal(confused[changed], true[changed] ^ 1)
    assert int(true.max()) == len(TASKS) * CLASSES - 1
