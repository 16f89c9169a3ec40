"""The training loop: it learns, repeats itself, and leaves frozen heads alone."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from lines_pipeline.zoo.glyph_tasks import HEADS, PRETRAINED
from lines_pipeline.zoo.model import GlyphEncoder
from lines_pipeline.zoo.training import Schedule, fit, task_batch

SHORT = Schedule(steps=40, batch_size=32, rate=1e-3, weight_decay=0.0)


def trained(seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[float]]:
    """Weights, head and losses of a short fine-tuning."""
    model, head, losses = GlyphEncoder(), load_file(HEADS)["digits"], []
    model.load_state_dict(load_file(PRETRAINED))
    generator = torch.Generator().manual_seed(seed)
    fit(model, head, lambda size: task_batch("digits", "train", size, generator), SHORT, lambda _, x: losses.append(x))
    return dict(model.state_dict()), head, losses


def test_fine_tuning_learns_moves_every_tensor_and_keeps_the_head() -> None:
    weights, head, losses = trained(0)
    assert len(losses) == SHORT.steps
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    before = load_file(PRETRAINED)
    assert not [name for name, value in weights.items() if torch.equal(value, before[name])]
    assert torch.equal(head, load_file(HEADS)["digits"])


def test_it_is_the_same_for_one_seed_and_not_for_another() -> None:
    (first, _, _), (again, _, _), (other, _, _) = trained(0), trained(0), trained(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])


def test_a_head_that_requires_gradients_is_trained() -> None:
    head = torch.nn.Parameter(load_file(HEADS)["digits"])
    generator = torch.Generator().manual_seed(0)
    fit(GlyphEncoder(), head, lambda size: task_batch("digits", "train", size, generator), SHORT)
    assert not torch.equal(head.detach(), load_file(HEADS)["digits"])
