"""Blocks for a GPU are read and copied one ahead; and a GPU computes what the processor computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import pytest
import torch
from merge_methods import METHODS
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import EngineError
from lines_pipeline.executor.prefetch import BlockPosition, SideStream, Staged, Stored, read_ahead, stage

PLACES: list[BlockPosition] = [("w", start, start + 4) for start in range(0, 20, 4)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class FakeDevice:
    """A device in main memory; notes when copies begin and when they are waited for."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int]] = []

    def copy(self, stored: Stored) -> tuple[Stored, Any]:
        assert current_thread() is not main_thread()
        first = int(stored["s"][0])
        self.notes.append(("copied", first))
        return {source: value.clone() for source, value in stored.items()}, first

    def arrived(self, staged: Staged, copied: Any) -> Staged:
        assert current_thread() is main_thread()
        self.notes.append(("arrived", copied))
        return staged


def read(place: BlockPosition) -> Stored:
    return {"s": torch.arange(place[1], place[2])}


def test_blocks_come_in_order_and_are_read_one_ahead() -> None:
    device, used = FakeDevice(), []
    for staged in read_ahead(device, PLACES, read):
        used.append(staged.position)
        assert staged.moved["s"].tolist() == list(range(*staged.position[1:]))
        device.notes.append(("used", staged.position[1]))
    assert used == PLACES
    for place in PLACES[2:]:
        before = device.notes.index(("used", place[1] - 8))
        assert device.notes.index(("copied", place[1])) > before
    assert [first for note, first in device.notes if note == "arrived"] == [place[1] for place in PLACES]


def test_nothing_to_read_gives_nothing() -> None:
    assert list(read_ahead(FakeDevice(), [], read)) == []
    assert list(stage("cpu", [], read)) == []


def test_an_error_in_reading_reaches_who_computes() -> None:
    def broken(place: BlockPosition) -> Mapping[str, torch.Tensor]:
        if place[1] == 8:
            raise EngineError("models/a.safetensors: cut short during the run")
        return read(place)

    blocks = read_ahead(FakeDevice(), PLACES, broken)
    assert [next(blocks).position[1] for _ in range(2)] == [0, 4]
    with pytest.raises(EngineError, match="cut short"):
        next(blocks)


@needs_gpu
def test_the_side_stream_copies_what_was_read() -> None:
    pinned = {"s": torch.arange(1000.0).pin_memory()}
    stream = SideStream("cuda")
    moved, copied = stream.copy(pinned)
    staged = stream.arrived(Staged(PLACES[0], pinned, moved), copied)
    assert torch.equal((staged.moved["s"] * 2).cpu(), pinned["s"] * 2)


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_merges_as_the_processor_does(
    method: str, dtype: str, models: Path, write_recipe: Callable[..., Path], shared_store: str
) -> None:
    generator = torch.Generator().manual_seed(7)
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["wide.weight"] = torch.randn(33, 70_001, generator=generator)
        kept = {n: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for n, v in state.items()}
        save_file(kept, models / f"{name}.safetensors")
    recipe = write_recipe(METHODS[method])
    by_name = {
        device: lines_pipeline.run(recipe, out=device, cache=False, device=device).files for device in ("cpu", "cuda")
    }
    for by_processor, by_gpu in zip(by_name["cpu"], by_name["cuda"], strict=True):
        expected, merged = load_file(by_processor), load_file(by_gpu)
        assert expected.keys() == merged.keys()
        for name, value in expected.items():
            assert merged[name].dtype == value.dtype
            differ = (merged[name].float() - value.float()).abs() > 1e-5 + 1e-2 * value.float().abs()
            assert differ.float().mean() < 1e-4, name
