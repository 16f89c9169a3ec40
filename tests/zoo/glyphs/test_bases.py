"""What ships: three small vision transformers named as open_clip names them; heads are features of clean drawings."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lines_pipeline.io.layers import find_layers
from lines_pipeline.zoo.glyphs.bases import BASES, base_file
from lines_pipeline.zoo.glyphs.domains import clean
from lines_pipeline.zoo.glyphs.drawings import task_drawings
from lines_pipeline.zoo.glyphs.heads import head, pretrained
from lines_pipeline.zoo.glyphs.images import split_images
from lines_pipeline.zoo.glyphs.model import BLOCKS, EMBEDDING, GlyphEncoder, class_scores


def states() -> list[dict[str, torch.Tensor]]:
    return [load_file(base_file(base)) for base in range(BASES)]


def test_the_shipped_files_are_small_and_differ() -> None:
    assert sum(path.stat().st_size for path in base_file(0).parent.iterdir()) <= 6_000_000
    assert len({state["visual.proj"].sum().item() for state in states()}) == BASES


def test_the_pretrained_models_have_the_promised_size_and_only_floats() -> None:
    for state in states():
        assert 400_000 <= sum(value.numel() for value in state.values()) <= 500_000
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert all(bool(value.isfinite().all()) for value in state.values())
        assert not [name for name in state if "head" in name]


def test_their_blocks_are_found_as_those_of_open_clip() -> None:
    layers = find_layers({name: value.numel() for name, value in states()[0].items()})
    assert {layers.place(f"visual.transformer.resblocks.{i}.attn.in_proj_weight") for i in range(BLOCKS)} == {
        (i, BLOCKS) for i in range(BLOCKS)
    }
    assert layers.place("visual.conv1.weight") is None
    assert layers.place("visual.proj") is None


def test_the_encoder_gives_unit_features() -> None:
    features = pretrained(0)(torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (3, EMBEDDING)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("base", range(BASES))
def test_a_class_vector_is_the_mean_feature_of_its_reference_drawings(base: int) -> None:
    vectors = head("glyphs", "manner-greek", base)
    assert vectors.shape == (4, EMBEDDING) and not vectors.requires_grad
    drawn = task_drawings("glyphs", "manner-greek", "reference")
    with torch.no_grad():
        features = pretrained(base)(clean(drawn.canvas[drawn.labels == 2])).mean(0)
    torch.testing.assert_close(vectors[2], features / features.norm())


@pytest.mark.parametrize("base", range(BASES))
def test_a_pretrained_model_knows_single_characters_in_fonts_that_it_never_saw(base: int) -> None:
    """On plain images of its own alphabets: so what it lacks on the tasks is their meaning, or their domain."""
    from lines_pipeline.zoo.glyphs.domains import render

    drawn = task_drawings("glyphs-domains", "uppercase", "test")
    images = render(drawn.canvas, "plain", 0.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = class_scores(pretrained(base)(images), head("glyphs-domains", "uppercase", base)).argmax(1)
    assert float((answers == drawn.labels).float().mean()) > 0.85


def test_zero_shot_is_between_chance_and_an_expert() -> None:
    found = split_images("glyphs", "manner-cyrillic", "val")
    with torch.no_grad():
        answers = class_scores(pretrained(0)(found.images), head("glyphs", "manner-cyrillic", 0)).argmax(1)
    assert 0.3 < float((answers == found.labels).float().mean()) < 0.85


def test_scores_are_cosines() -> None:
    vectors = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    scores = class_scores(torch.tensor([[0.6, 0.8]]), vectors)
    torch.testing.assert_close(scores, torch.tensor([[16 * 0.6, 16 * 0.8]]))
    assert isinstance(pretrained(0), GlyphEncoder)
