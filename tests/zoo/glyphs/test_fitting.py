"""The training loop learns, repeats itself, leaves frozen heads alone, and takes other losses, rates and penalties."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from lines_pipeline.zoo.glyphs.fitting import Schedule, fit
from lines_pipeline.zoo.glyphs.heads import head, pretrained
from lines_pipeline.zoo.glyphs.images import training_batches
from lines_pipeline.zoo.glyphs.model import GlyphEncoder
from lines_pipeline.zoo.glyphs.variants import decayed_rates, lost_reward, pull_to

TASK = "quarter-latin"
SHORT = Schedule(steps=30, batch_size=32, rate=2e-3)


def trained(seed: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights and losses of a short fine-tuning."""
    model, losses = pretrained(0).train(), list[float]()
    batches = training_batches("glyphs", TASK, torch.Generator().manual_seed(seed))
    fit(model, head("glyphs", TASK, 0), batches, SHORT, lambda _, loss: losses.append(loss))
    return dict(model.state_dict()), losses


def test_fine_tuning_learns_moves_every_tensor_and_keeps_the_head() -> None:
    before = head("glyphs", TASK, 0).clone()
    weights, losses = trained(0)
    assert len(losses) == SHORT.steps
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    start = pretrained(0).state_dict()
    assert not [name for name, value in weights.items() if torch.equal(value, start[name])]
    assert torch.equal(head("glyphs", TASK, 0), before)


def test_it_is_the_same_for_one_seed_and_not_for_another() -> None:
    (first, _), (again, _), (other, _) = trained(0), trained(0), trained(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])


def test_a_head_that_requires_gradients_is_trained() -> None:
    trainable = torch.nn.Parameter(head("glyphs", TASK, 0).clone())
    batches = training_batches("glyphs", TASK, torch.Generator().manual_seed(0))
    fit(GlyphEncoder(), trainable, batches, replace(SHORT, steps=3))
    assert not torch.equal(trainable.detach(), head("glyphs", TASK, 0))


def test_layers_have_rates_of_their_own() -> None:
    rates = decayed_rates(GlyphEncoder())
    assert rates["visual.proj"] == rates["visual.transformer.resblocks.7.mlp.c_fc.weight"] == 1
    assert rates["visual.transformer.resblocks.5.ln_1.bias"] == 0.7**2
    assert rates["visual.conv1.weight"] == rates["visual.ln_pre.weight"] == 0.7**8
    frozen = {name: 0.0 for name in rates if name != "visual.proj"}
    model, batches = pretrained(0).train(), training_batches("glyphs", TASK, torch.Generator().manual_seed(0))
    fit(model, head("glyphs", TASK, 0), batches, replace(SHORT, steps=3, rate_factors=frozen))
    before = pretrained(0).state_dict()
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == [
        "visual.proj"
    ]


def test_the_pull_is_half_the_squared_distance_times_its_weight() -> None:
    start, model = pretrained(0), pretrained(0)
    with torch.no_grad():
        model.visual.proj[0, 0] += 2.0
    assert float(pull_to(start)(model).detach()) == pytest.approx(0.05 / 2 * 4)


def test_the_reward_is_the_probability_of_the_right_answer() -> None:
    logits, labels = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    right = functional.softmax(logits, 1)[[0, 1], [0, 1]]
    torch.testing.assert_close(lost_reward(logits, labels), 1 - right.mean())
