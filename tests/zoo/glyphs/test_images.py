"""The images: the same for everyone, every class as often, in the domain of their task or in others."""

from __future__ import annotations

import pytest
import torch

from lines_pipeline.zoo.glyphs.domains import clean, place, render, render_mild
from lines_pipeline.zoo.glyphs.drawings import task_drawings
from lines_pipeline.zoo.glyphs.images import SPLIT_IMAGES, own_domain, split_images, training_batches
from lines_pipeline.zoo.glyphs.tasks import DOMAIN_TASKS, DOMAINS


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def canvas(count: int = 150) -> torch.Tensor:
    return task_drawings("glyphs", "manner-latin", "train").canvas[:count]


@pytest.mark.parametrize("split", SPLIT_IMAGES)
@pytest.mark.parametrize(("family", "task"), [("glyphs", "numeral-greek"), ("glyphs-domains", "georgian")])
def test_a_split_is_the_same_for_everyone_and_has_every_class_as_often(family: str, task: str, split: str) -> None:
    found = split_images(family, task, split)
    assert found.images.shape == (SPLIT_IMAGES[split], 1, 20, 20)
    counts = found.labels.bincount()
    assert int(counts.max() - counts.min()) <= max(int(counts.float().mean()) // 5, 1) + 9
    split_images.cache_clear()
    again = split_images(family, task, split)
    assert torch.equal(found.images, again.images) and torch.equal(found.shapes, again.shapes)


def test_every_image_tells_its_character_and_shape() -> None:
    found = split_images("glyphs", "script", "test")
    drawn = task_drawings("glyphs", "script", "test")
    label_of = dict(zip(drawn.shapes.tolist(), drawn.labels.tolist(), strict=True))
    assert [label_of[shape] for shape in found.shapes.tolist()] == found.labels.tolist()
    assert torch.equal(found.shapes // 16, found.glyphs)
    assert len(set(found.shapes.tolist())) > 150


def test_other_domains_show_the_shapes_of_test() -> None:
    test, elsewhere = (split_images("glyphs", "manner-greek", split) for split in ("test", "ood"))
    assert set(elsewhere.shapes.tolist()) <= set(task_drawings("glyphs", "manner-greek", "test").shapes.tolist())
    assert not torch.equal(test.images, elsewhere.images)
    val = split_images("glyphs", "manner-greek", "val")
    assert not set(val.shapes.tolist()) & set(test.shapes.tolist())


def test_a_batch_follows_its_generator() -> None:
    first, second = (training_batches("glyphs", "case", seeded(3))(8) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], training_batches("glyphs", "case", seeded(4))(8)[0])


def test_there_are_twenty_domains_and_each_task_has_one() -> None:
    assert len(DOMAINS) == len(DOMAIN_TASKS) == 20
    assert all(strength > 0 for strength in DOMAINS.values())
    assert {own_domain("glyphs-domains", task) for task in DOMAIN_TASKS} == set(DOMAINS)
    assert own_domain("glyphs", "case") == "mild"


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_grows_with_its_strength_and_without_jumps(domain: str) -> None:
    rendered = {s: render(canvas(), domain, s, seeded(1)) for s in (0.2, 0.8, 0.83, 1.4)}
    assert all(images.shape == (150, 1, 20, 20) and bool(images.isfinite().all()) for images in rendered.values())
    near, far = ((rendered[0.8] - rendered[s]).abs().mean() for s in (0.83, 1.4))
    assert 0 < near < 0.2 * far


def test_the_mild_domain_is_not_strong_and_a_clean_image_is_the_drawing() -> None:
    mild = render(canvas(), "mild", 1.0, seeded(1))
    assert torch.equal(mild, render_mild(canvas(), seeded(1)))
    assert float((mild - place(canvas(), seeded(1))).abs().mean()) < 0.1
    assert float(clean(canvas()).min()) == 0.0 and torch.equal(clean(canvas()), clean(canvas()))
    assert not torch.equal(mild, render_mild(canvas(), seeded(1), turn=40.0))
