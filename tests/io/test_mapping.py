"""Mapped checkpoints: views of float32, copies of all else, under all names of tied tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lines_pipeline.io.mapping import MappedTensors
from lines_pipeline.io.opening import open_checkpoint


def test_float32_is_a_view_and_all_else_is_read(tmp_path: Path) -> None:
    state = {
        "plain": torch.arange(6.0).view(2, 3),
        "half": torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(1.5),
    }
    save_file(state, tmp_path / "model.safetensors")
    mapped = MappedTensors(open_checkpoint(tmp_path / "model.safetensors"))
    assert sorted(mapped) == sorted(state) and len(mapped) == 5
    for name, value in state.items():
        expected = value.float() if value.is_floating_point() else value
        assert torch.equal(mapped[name], expected) and mapped[name].dtype is expected.dtype
    assert mapped["plain"].data_ptr() == mapped["plain"].data_ptr() != mapped["half"].data_ptr()
    with pytest.raises(KeyError):
        mapped["other"]


def test_what_is_done_to_a_view_does_not_reach_the_file(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4)}, tmp_path / "model.safetensors")
    MappedTensors(open_checkpoint(tmp_path / "model.safetensors"))["x"].zero_()
    assert torch.equal(load_file(tmp_path / "model.safetensors")["x"], torch.ones(4))


def test_tied_tensors_have_all_their_names(tmp_path: Path) -> None:
    value = torch.arange(4.0)
    torch.save({"one": value, "two": value}, tmp_path / "model.pt")
    mapped = MappedTensors(open_checkpoint(tmp_path / "model.pt"))
    assert torch.equal(mapped["one"], value) and torch.equal(mapped["two"], value)
