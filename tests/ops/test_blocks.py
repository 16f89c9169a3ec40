"""Compiled loops give the bits of the plain forms, whatever the values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lines_pipeline.ops.blocks import add_agreeing, add_kept, compiled, keep_from, mark_kept, within

pytest.importorskip("numba")

SPECIAL = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-40, -1e-40, 3e38, 0.25)
TYPES = (torch.float32, torch.float64)


@st.composite
def blocks(draw: st.DrawFn) -> torch.Tensor:
    """A block with many equal magnitudes, both zeros, tiny and huge values."""
    size = draw(st.sampled_from([1, 63, 64, 65, 200, 1000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    chosen = torch.randint(len(SPECIAL) + 4, (size,), generator=generator)
    values = torch.randn(size, generator=generator, dtype=torch.float64)
    for index, special in enumerate(SPECIAL):
        values[chosen == index] = special
    return values.to(draw(st.sampled_from(TYPES)))


def bits(value: torch.Tensor) -> bytes:
    return value.numpy().tobytes()


@settings(deadline=None, max_examples=60)
@given(blocks(), st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), st.sampled_from([1.0, 0.3, -2.0, 0.0]))
def test_what_is_kept_is_added_alike(value: torch.Tensor, threshold: float, weight: float) -> None:
    found = []
    for wanted in (False, True):
        total, marks = torch.linspace(-1, 1, len(value), dtype=value.dtype), torch.zeros(len(value), dtype=torch.bool)
        with compiled(wanted):
            add_kept(total, value, threshold, weight)
            mark_kept(marks, value, threshold)
        found.append((bits(total), bits(marks)))
    assert found[0] == found[1]
    assert torch.equal(marks, (value.abs() >= threshold) & (value != 0))
    expected = torch.linspace(-1, 1, len(value), dtype=value.dtype) + keep_from(value, threshold) * weight
    assert bits(total) == bits(expected)


@settings(deadline=None, max_examples=60)
@given(blocks(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 0.3, -2.0]))
def test_what_agrees_is_added_and_counted_alike(value: torch.Tensor, threshold: float, weight: float) -> None:
    direction = torch.where(torch.arange(len(value)) % 3 == 0, -1.0, 1.0).to(value.dtype)
    found = []
    for wanted in (False, True):
        total, count = torch.ones_like(value), torch.zeros_like(value)
        with compiled(wanted):
            add_agreeing(total, count, direction, value, threshold=threshold, weight=weight)
        found.append((bits(total), bits(count)))
    assert found[0] == found[1]
    agrees = (value * weight * direction > 0) & (value.abs() >= threshold)
    assert torch.equal(count.bool(), agrees)


@settings(deadline=None, max_examples=60)
@given(blocks(), st.sampled_from([(0.25, 0.5), (0.5, 0.5), (0.3, 0.9), (1e-41, 3e38), (5.0, 6.0)]))
def test_magnitudes_in_a_bracket_are_found_alike(value: torch.Tensor, bracket: tuple[float, float]) -> None:
    low, high = bracket
    found = []
    for wanted in (False, True):
        with compiled(wanted):
            below, near = within(value, low, high)
        found.append((below, near.tobytes()))
    assert found[0] == found[1]
    sizes = value.abs().numpy()
    low, high = (sizes.dtype.type(edge) for edge in bracket)
    assert below == np.count_nonzero(sizes < low)
    assert near.tolist() == sizes[(sizes >= low) & (sizes <= high)].tolist()


def test_without_numba_the_plain_forms_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from lines_pipeline.ops import blocks as module

    monkeypatch.setattr(module, "_installed", lambda: False)
    monkeypatch.setattr(module, "_loops", lambda: pytest.fail("the compiled loops were loaded"))
    with compiled(True):
        assert within(torch.tensor([0.1, 0.5, 2.0]), 0.4, 1.0)[0] == 1
