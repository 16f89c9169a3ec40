"""The embedded zoo: what ships, what is built, and that it is there to be merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.evals.glyph_suite import GlyphSuite
from lines_pipeline.io.layers import find_layers
from lines_pipeline.zoo.accuracy import split_images
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import HEADS, PRETRAINED, TASKS, locate
from lines_pipeline.zoo.rendering import CLASSES, FONTS, codes, glyphs

RECIPES = Path(__file__).parents[2] / "recipes"


def test_what_ships_is_small_and_named_as_open_clip_names_it() -> None:
    state = load_file(PRETRAINED)
    assert PRETRAINED.stat().st_size + HEADS.stat().st_size < 6_000_000
    assert 400_000 <= sum(value.numel() for value in state.values()) <= 500_000
    layers = find_layers(state)
    assert layers.family == "open_clip"
    assert layers.depths == {"visual": 8}


def test_every_task_has_ten_classes_and_fonts_of_its_own_in_each_split() -> None:
    assert len(TASKS) == 20
    fonts = [set(found) for found in FONTS.values()]
    assert not fonts[0] & fonts[1] and not fonts[0] & fonts[2] and not fonts[1] & fonts[2]
    assert all("LastResort" not in font for found in FONTS.values() for font in found)
    for task in TASKS:
        assert len(set(codes(task))) == CLASSES
        for split in FONTS:
            assert set(glyphs(task, split)[1].tolist()) == set(range(CLASSES))


def test_splits_are_the_same_every_time_and_differ() -> None:
    first = split_images("greek", "val")[0].clone()
    split_images.cache_clear()
    assert torch.equal(split_images("greek", "val")[0], first)
    assert not torch.equal(split_images("greek", "test")[0], first)


def test_zero_shot_accuracy_is_moderate() -> None:
    tasks = ["uppercase", "greek", "arrows", "symbols"]
    found = GlyphSuite().accuracies(load_file(PRETRAINED), tasks, "val")
    assert 0.35 <= sum(found.values()) / len(found) <= 0.7


@pytest.mark.parametrize(
    ("uri", "message"), [("zoo://glyphs/grek", "did you mean 'greek'"), ("zoo://birds/a", "unknown zoo")]
)
def test_unknown_names_are_corrected(uri: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        locate(uri)


def test_validating_and_planning_build_nothing() -> None:
    validation = lines_pipeline.validate(RECIPES / "vit20_ties_lines.yaml")
    report = lines_pipeline.plan(RECIPES / "vit20_ties_lines.yaml")
    assert len(validation.notes) == 20
    assert len(report.passes) == 3 and report.trials == 15
    assert not locate("zoo://glyphs/digits").path.parent.exists()


@pytest.mark.slow
def test_an_expert_is_built_once_the_same_every_time_and_is_good_at_its_task() -> None:
    (path,) = build(["zoo://glyphs/digits"])
    first = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    build(["zoo://glyphs/digits"])
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    build(["zoo://glyphs/digits"])
    assert path.read_bytes() == first
    suite = GlyphSuite()
    before = suite.accuracies(load_file(PRETRAINED), ["digits", "greek"], "val")
    after = suite.accuracies(load_file(path), ["digits", "greek"], "val")
    assert after["digits"] > before["digits"] + 0.2
    assert after["greek"] < before["greek"]


@pytest.mark.slow
def test_a_gamma_sweep_keeps_more_of_the_other_tasks(tmp_path: Path) -> None:
    recipe = tmp_path / "sweep.yaml"
    text = (RECIPES / "single_task_gamma.yaml").read_text()
    text = text.replace('target: "${task}"}', 'target: "${task}", tasks: [digits, greek, arrows]}')
    recipe.write_text(text.replace("step: 0.1", "step: 0.5"))
    build(["zoo://glyphs/digits", "zoo://glyphs/greek", "zoo://glyphs/arrows"])
    result = lines_pipeline.run(recipe, out="out")
    found = result.metrics
    assert found["test"]["control_normalized_accuracy"] > found["before"]["control_normalized_accuracy"]
    assert result.chosen["scaled.gamma"] in (0.0, 0.5, 1.0)
