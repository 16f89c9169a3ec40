"""What ships: a small vision transformer named as open_clip names it, and a head for each task."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lines_pipeline.io.layers import find_layers
from lines_pipeline.zoo.glyph_tasks import HEADS, PRETRAINED, TASKS, WEIGHTS
from lines_pipeline.zoo.model import BLOCKS, EMBEDDING, GlyphEncoder, class_scores
from lines_pipeline.zoo.rendering import CLASSES


@pytest.fixture(scope="module")
def pretrained() -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(PRETRAINED)
    return tensors


def test_the_shipped_files_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 6_000_000


def test_the_pretrained_model_has_the_promised_size_and_only_floats(pretrained: dict[str, torch.Tensor]) -> None:
    assert 400_000 <= sum(value.numel() for value in pretrained.values()) <= 500_000
    assert {value.dtype for value in pretrained.values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in pretrained.values())


def test_its_blocks_are_found_as_those_of_open_clip(pretrained: dict[str, torch.Tensor]) -> None:
    layers = find_layers({name: value.numel() for name, value in pretrained.items()})
    assert {layers.place(f"visual.transformer.resblocks.{i}.attn.in_proj_weight") for i in range(BLOCKS)} == {
        (i, BLOCKS) for i in range(BLOCKS)
    }
    assert layers.place("visual.conv1.weight") is None
    assert layers.place("visual.proj") is None


def test_the_encoder_loads_it_and_gives_unit_features(pretrained: dict[str, torch.Tensor]) -> None:
    model = GlyphEncoder()
    model.load_state_dict(pretrained)
    features = model(torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (3, EMBEDDING)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_there_is_a_head_for_each_task_and_none_in_the_checkpoint(pretrained: dict[str, torch.Tensor]) -> None:
    heads = load_file(HEADS)
    assert {task: tuple(head.shape) for task, head in heads.items()} == dict.fromkeys(TASKS, (CLASSES, EMBEDDING))
    assert not [name for name in pretrained if "head" in name]


def test_scores_are_cosines() -> None:
    head = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    scores = class_scores(torch.tensor([[0.6, 0.8]]), head)
    torch.testing.assert_close(scores, torch.tensor([[16 * 0.6, 16 * 0.8]]))
