"""The exact order statistic of a large model, found in one sweep from a sample's bracket."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, TensorSpec
from lines_pipeline.ops.base import Retry
from lines_pipeline.ops.statistics.thresholds import Bracket, Brackets, Thresholds, TrimThreshold

NUMEL = 3 * 2**20
SPEC = TensorSpec("t", "float32", (NUMEL,))


def values(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(NUMEL, generator=generator)
    if kind == "mostly zero":
        return torch.where(torch.rand(NUMEL, generator=generator) < 0.9, torch.zeros(()), tensors)
    if kind == "few magnitudes":
        return tensors.round()
    if kind == "sorted":
        return tensors.sort().values
    return tensors


def swept(statistic: TrimThreshold, delta: torch.Tensor, state: Brackets) -> Thresholds | Retry[Brackets]:
    parts = delta.split(BLOCK_NUMEL)  # type: ignore[no-untyped-call]
    blocks = [statistic.partial(*statistic.observe([part], SPEC, [], state)) for part in parts]
    return statistic.combine({"t": blocks}, {"t": NUMEL}, state)


@pytest.mark.parametrize("kind", ["normal", "mostly zero", "few magnitudes", "sorted"])
@pytest.mark.parametrize("density", [0.001, 0.05, 0.2, 0.5, 0.95])
def test_it_is_the_kth_magnitude(kind: str, density: float) -> None:
    delta = values(kind)
    statistic = TrimThreshold(("x",), density, "global")
    runs = [delta[start : start + 1024].abs().numpy() for start in range(0, NUMEL, NUMEL // 512)]
    state = statistic.prepare({"t": runs}, {"t": NUMEL})
    thresholds = swept(statistic, delta, state)
    while isinstance(thresholds, Retry):
        thresholds = swept(statistic, delta, thresholds.state)
    magnitudes = np.sort(delta.abs().numpy())
    expected = float(magnitudes[NUMEL - int(NUMEL * density) - 1])
    assert thresholds.of(SPEC) == expected
    assert thresholds.kept == int((magnitudes >= expected).sum())


def test_a_bracket_that_missed_is_widened_until_it_holds() -> None:
    delta = values("normal")
    statistic = TrimThreshold(("x",), 0.2, "global")
    thresholds = swept(statistic, delta, {"": Bracket(5.0, 5.5, 0.001)})
    sweeps = 1
    while isinstance(thresholds, Retry):
        thresholds, sweeps = swept(statistic, delta, thresholds.state), sweeps + 1
    assert sweeps > 1
    assert math.isclose(thresholds.of(SPEC), float(delta.abs().sort().values[NUMEL - int(NUMEL * 0.2) - 1]))


@pytest.mark.parametrize("density", [0.001, 0.2, 0.9])
def test_a_sample_that_misleads_costs_a_sweep_or_two_and_keeps_little(density: float) -> None:
    delta = values("normal")
    statistic = TrimThreshold(("x",), density, "global")
    rank = NUMEL - int(NUMEL * density)
    expected = float(delta.abs().sort().values[rank - 1])
    for factor in (0.8, 1.25):
        runs = [delta[start : start + 1024].abs().numpy() * factor for start in range(0, NUMEL, NUMEL // 512)]
        state, sweeps = statistic.prepare({"t": runs}, {"t": NUMEL}), 1
        while isinstance(outcome := swept(statistic, delta, state), Retry):
            state, sweeps = outcome.state, sweeps + 1
            held = (delta.abs() > state[""].low) & (delta.abs() < state[""].high)
            assert int(held.sum()) < 0.13 * NUMEL
        assert outcome.of(SPEC) == expected
        assert sweeps <= 6


def test_what_a_good_sample_keeps_is_a_hundredth() -> None:
    delta = values("normal") * torch.linspace(0.1, 3.0, NUMEL)
    statistic = TrimThreshold(("x",), 0.2, "global")
    runs = [delta[start : start + 1024].abs().numpy() for start in range(0, NUMEL, NUMEL // 512)]
    bracket = statistic.prepare({"t": runs}, {"t": NUMEL})[""]
    assert int(((delta.abs() > bracket.low) & (delta.abs() < bracket.high)).sum()) < 0.01 * NUMEL
    assert statistic.kept_numel({"t": NUMEL}) == int(NUMEL * 0.02)


def test_a_bracket_of_one_magnitude_does_not_count_it_twice() -> None:
    delta = torch.cat([torch.full((2**21,), 0.25), torch.full((2**20,), 1.0)])
    statistic = TrimThreshold(("x",), 0.2, "global")
    points = np.sort(delta[:: 2**8].numpy())
    thresholds = swept(statistic, delta, {"": Bracket(0.25, 0.25, 0.002, points)})
    while isinstance(thresholds, Retry):
        thresholds = swept(statistic, delta, thresholds.state)
    assert thresholds.of(SPEC) == 1.0 and thresholds.kept == 2**20


def test_a_threshold_a_tensor_keeps_little_of_each() -> None:
    numels = {f"blocks.{i}.weight": 2**20 for i in range(96)} | {f"blocks.{i}.bias": 1024 for i in range(96)}
    statistic = TrimThreshold(("x",), 0.2, "tensor")
    assert statistic.kept_numel(numels) < 0.07 * sum(numels.values())
    generator = torch.Generator().manual_seed(0)
    sample = {}
    for name, numel in numels.items():
        count = statistic.sample_runs(numels) * numel // sum(numels.values())
        sample[name] = [torch.randn(1024, generator=generator).abs().numpy() for _ in range(count)]
    state = statistic.prepare(sample, numels)
    assert all(state[name].low > 0 for name in numels if name.endswith("weight"))
    assert all(state[name].high == math.inf for name in numels if name.endswith("bias"))
